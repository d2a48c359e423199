# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The check of training data: what it finds, that it is made once, and what a run makes of broken rows."""

import io
import json

import datasets
import PIL.Image
import pytest
import yaml
from conftest import make_image
from datasets import Dataset

from flashsloth import cli
from flashsloth.train import selection
from flashsloth.train.checks import BadRow, check, report, write_jsonl
from flashsloth.train.config import DataSource
from flashsloth.train.data import load_data
from flashsloth.train.rows import FEATURES
from flashsloth.train.selection import check_cached, good_rows


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def row(*turns, **columns) -> dict:
    """A row in LLaVA's form, with turns of the human and the model."""
    roles = ("human", "gpt")
    turns = [{"from": roles[index % 2], "value": value} for index, value in enumerate(turns)]
    return {"id": "fine", "conversations": turns} | columns


def turns(*pairs, **columns) -> dict:
    return {"id": "fine", "conversations": [{"from": role, "value": value} for role, value in pairs]} | columns


@pytest.fixture
def write(tmp_path):
    """Writes rows and pictures of every kind, and returns the source."""
    make_image(0).save(tmp_path / "good.png")
    make_image(1, 200, 200).save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-3000])
    (tmp_path / "text.jpg").write_text("404: not found")
    (tmp_path / "empty.jpg").touch()
    make_image(0).save(tmp_path / "gif named.jpg", "GIF")

    def write(rows: list[dict], **settings) -> DataSource:
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        return DataSource(str(tmp_path / "rows.json"), **settings)

    return write


GOOD = [
    row("<image>\nWhat?", "A bird.", image="good.png"),
    row("<image>", "A bird.", image="good.jpg"),
    row("What? <image>", "A bird.", "Sure?", "Yes.", image="gif named.jpg"),
    row("Say </s>.", "I say <image> </s>."),
    turns(("system", "Be brief."), ("human", "Hi?"), ("gpt", "Hello.")),
]
BAD = [
    ("missing image", "lost.jpg", row("<image>", "A bird.", image="lost.jpg")),
    ("truncated image", "cut.jpg", row("<image>", "A bird.", image="cut.jpg")),
    ("undecodable image", "text.jpg", row("<image>", "A bird.", image="text.jpg")),
    ("undecodable image", "empty.jpg", row("<image>", "A bird.", image="empty.jpg")),
    ("placeholder count differs", "2 placeholders, 1 images", row("<image><image>", "A bird.", image="good.png")),
    ("placeholder count differs", "0 placeholders, 1 images", row("What?", "A bird.", image="good.png")),
    ("placeholder count differs", "1 placeholders, 0 images", row("<image>What?", "A bird.")),
    ("empty turn", "message 1, of 'assistant'", row("What?", " \n")),
    ("empty turn", "message 2, of 'user'", row("What?", "A bird.", "", "Yes.")),
    ("empty turn", "message 0, of 'system'", turns(("system", ""), ("human", "Hi?"), ("gpt", "Hello."))),
    ("wrong order of turns", "turn 0 is of 'assistant' where 'user' is due", turns(("gpt", "A."), ("human", "B?"))),
    ("wrong order of turns", "turn 1 is of 'user'", turns(("human", "A?"), ("human", "B?"), ("gpt", "C."))),
    ("wrong order of turns", "turn 1 is of 'function'", turns(("human", "A?"), ("function", "B"), ("gpt", "C."))),
    ("no assistant turn", "1 turns", row("What?")),
    ("no assistant turn", "0 turns", row()),
    ("unknown kind of content", "'video'", {"messages": [
        {"role": "user", "content": [{"type": "video"}]}, {"role": "assistant", "content": "A bird."}
    ]}),
    ("answer cut by max_length", "tokens, of which 1024 can be kept", row("What?", "word " * 200)),
]  # fmt: skip


def found(bad: list[BadRow]) -> list[tuple]:
    return [(problem.index, problem.id, problem.reason) for problem in bad]


def test_every_kind_of_broken_row_is_named(write, processor):
    rows = [*GOOD, *({"id": f"bad {index}"} | {**bad, "id": f"bad {index}"} for index, (*_, bad) in enumerate(BAD))]
    rows.append(GOOD[0])
    dataset = load_data([write(rows)], seed=0)
    bad = check(dataset, processor, None, hd=False, progress=False)
    expected = [(len(GOOD) + index, f"bad {index}", reason) for index, (reason, *_) in enumerate(BAD)]
    assert found(bad) == expected
    for problem, (_, detail, _) in zip(bad, BAD, strict=True):
        assert detail in problem.detail


def test_bombs(write, processor, tmp_path):
    """Above the limit, but not above twice the limit, Pillow itself only warns."""
    PIL.Image.new("1", (PIL.Image.MAX_IMAGE_PIXELS // 8000 + 1, 8000)).save(tmp_path / "bomb.png")
    dataset = load_data([write([GOOD[0], row("<image>", "White.", image="bomb.png")])], seed=0)
    [bad] = check(dataset, processor, None, hd=False, progress=False)
    assert (bad.index, bad.reason) == (1, "decompression bomb")
    assert f"bomb.png: more than PIL.Image.MAX_IMAGE_PIXELS = {PIL.Image.MAX_IMAGE_PIXELS} pixels" in bad.detail


@pytest.mark.parametrize("hd", [False, True])
def test_length_is_that_of_the_processor(hd, write, processor):
    rows = [row("<image>\nWhat </s>?", "A bird.", "And <image>?", "None.", image=["good.png", "good.jpg"])]
    dataset = load_data([write(rows)], seed=0)
    messages = json.loads(json.dumps(dataset["messages"][0]))
    pictures = iter(dataset[0]["images"])
    for part in (part for message in messages for part in message["content"] if part["type"] == "image"):
        part["image"] = next(pictures)
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, hd=hd)
    length = len(inputs["input_ids"][0])
    assert check(dataset, processor, length, hd, progress=False) == []
    [bad] = check(dataset, processor, length - 1, hd, progress=False)
    assert (bad.reason, bad.detail) == (
        "answer cut by max_length",
        f"{length} tokens, of which {length - 1} can be kept",
    )


def test_images_inside_the_rows(processor):
    file = io.BytesIO()
    make_image(0, 200, 200).save(file, "JPEG")
    good, cut = file.getvalue(), file.getvalue()[:-3000]
    messages = [
        {"role": "user", "content": [{"type": "image", "text": None}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Noise."}]},
    ]
    rows = [
        {"id": str(index), "images": [image], "messages": messages, "num_images": 1, "length": 6}
        for index, image in enumerate([{"bytes": good, "path": None}, {"bytes": cut, "path": "cut.jpg"}, None])
    ]
    dataset = Dataset.from_list(rows, features=FEATURES)
    bad = check(dataset, processor, None, hd=False, progress=False)
    assert found(bad) == [(1, "1", "truncated image"), (2, "2", "missing image")]


def test_many_rows_and_streams(write, processor):
    rows = [row("Hi?", "" if index in (40, 99) else "Hello.", id=index) for index in range(100)]
    bad = check(load_data([write(rows)], seed=0), processor, None, hd=False, progress=False)
    assert found(bad) == [(40, "40", "empty turn"), (99, "99", "empty turn")]
    stream = load_data([write(rows, streaming=True)], seed=0, decode=False)
    assert {problem.id for problem in check(stream, processor, None, hd=False, progress=False)} == {"40", "99"}


def test_result_is_kept_for_the_same_data_and_settings(write, processor, tmp_path, monkeypatch):
    source = write([*GOOD, row("What?")])
    dataset = load_data([source], seed=0)
    bad = check_cached(dataset, processor, None, False, tmp_path / "out", progress=False)
    assert len(bad) == 1
    monkeypatch.setattr(selection, "check", lambda *args: pytest.fail("read again"))
    assert check_cached(load_data([source], seed=0), processor, None, False, tmp_path / "out") == bad
    monkeypatch.setattr(selection, "check", lambda *args: [])
    assert check_cached(dataset, processor, 500, False, tmp_path / "out") == []
    assert check_cached(load_data([write(GOOD)], seed=0), processor, None, False, tmp_path / "out") == []


def test_only_repaired_rows_are_read_again(write, processor, tmp_path, monkeypatch):
    rows = [*GOOD, row("<image>", "A bird.", image="lost.jpg"), row("What?", id="x7")]
    arguments = load_data([write(rows)], seed=0), processor, None, False
    for _ in range(2):
        with pytest.raises(ValueError, match="2 of 7 rows are broken, the first is row 5"):
            good_rows(*arguments, "stop", tmp_path / "out", progress=False)
    assert len(good_rows(*arguments, "skip", tmp_path / "out", progress=False)) == 5
    make_image(0).save(tmp_path / "lost.jpg")
    # What was left out stays out: the run that goes on has to have the same rows.
    assert len(good_rows(*arguments, "skip", tmp_path / "out", progress=False)) == 5
    read = []
    monkeypatch.setattr(
        selection, "check", lambda dataset, *others: read.append(len(dataset)) or check(dataset, *others)
    )
    with pytest.raises(ValueError, match="1 of 7 rows are broken, the first is row 6, id 'x7'"):
        good_rows(*arguments, "stop", tmp_path / "out", progress=False)
    assert read == [2]


def test_stop_and_skip(write, processor, tmp_path, caplog):
    dataset = load_data([write([GOOD[0], row("What?", id="x7"), GOOD[3]])], seed=0)
    with pytest.raises(ValueError, match="1 of 3 rows are broken, the first is row 1, id 'x7' .no assistant turn"):
        good_rows(dataset, processor, None, False, "stop", tmp_path / "out", progress=False)
    assert "no assistant turn" in caplog.text
    good = good_rows(dataset, processor, None, False, "skip", tmp_path / "out", progress=False)
    assert good["messages"][:] == [dataset["messages"][0], dataset["messages"][2]]
    [skipped] = (tmp_path / "out" / "skipped_rows.jsonl").read_text().splitlines()
    assert json.loads(skipped) == {"index": 1, "id": "x7", "reason": "no assistant turn", "detail": "1 turns"}


def test_nothing_left_and_nothing_wrong(write, processor, tmp_path):
    with pytest.raises(ValueError, match="All 1 rows are broken, the first by: no assistant turn"):
        good_rows(load_data([write([row("What?")])], 0), processor, None, False, "skip", tmp_path, progress=False)
    dataset = load_data([write(GOOD)], seed=0)
    assert good_rows(dataset, processor, None, False, "stop", tmp_path, progress=False) is dataset
    assert not (tmp_path / "skipped_rows.jsonl").exists()


def test_report_and_jsonl(tmp_path):
    assert report([]) == "No broken rows."
    bad = [BadRow(index, f"id{index}", "missing image", f"{index}.jpg") for index in range(60)]
    lines = report([*bad, BadRow(100, "x", "empty turn", "message 1")]).splitlines()
    assert lines[:3] == ["Broken rows: 61", "      60  missing image", "       1  empty turn"]
    assert lines[5].split() == ["0", "id0", "missing", "image", "0.jpg"]
    assert lines[-1] == "... and 11 more"
    write_jsonl(bad, tmp_path / "bad.jsonl")
    assert [BadRow(**json.loads(line)) for line in (tmp_path / "bad.jsonl").read_text().splitlines()] == bad


def test_the_command(write, processor, tmp_path, capsys, monkeypatch):
    processor.save_pretrained(tmp_path / "model")
    config = {
        "model": str(tmp_path / "model"),
        "data": {"path": write([*GOOD, row("What?", id="x7")]).path},
        "trainable": ["lm_head"],
        "output_dir": str(tmp_path / "out"),
        "bf16": True,
    }
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config))
    arguments = ["data", "check", str(tmp_path / "stage.yaml")]
    assert cli.main([*arguments, "--jsonl", str(tmp_path / "bad.jsonl")]) == 2
    output = capsys.readouterr()
    assert output.out.startswith("Broken rows: 1\n") and "x7" in output.out
    assert output.err.splitlines()[-1].startswith("flashsloth data: error: 1 of the rows are broken")
    assert json.loads((tmp_path / "bad.jsonl").read_text())["id"] == "x7"
    write(GOOD)
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "No broken rows.\n"
    # Training does not read it all again.
    dataset = load_data([DataSource(config["data"]["path"])], seed=0)
    with monkeypatch.context() as patched:
        patched.setattr(selection, "check", lambda *others: pytest.fail("read again"))
        assert good_rows(dataset, processor, None, False, "stop", tmp_path / "out") is dataset
    assert cli.main([*arguments, f"model={tmp_path / 'no model'}"]) == 2
    assert "no model" in capsys.readouterr().err
