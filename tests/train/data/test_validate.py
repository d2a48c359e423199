# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The validation of data: what it finds, that it is made once, and what a run makes of broken rows."""

import io
import json

import PIL.Image
import pytest
import yaml
from datasets import Dataset
from samples import make_image

from flashsloth import cli
from flashsloth.train.data import DataSource, load_data, validate
from flashsloth.train.data.broken_rows import BrokenRow, report, write_jsonl
from flashsloth.train.data.fingerprint import fingerprint
from flashsloth.train.data.formats import FEATURES
from flashsloth.train.data.validate import DataValidation, RowValidator, without


def row(*turns, **columns) -> dict:
    """A raw row in LLaVA's form, with turns of the human and the model."""
    roles = ("human", "gpt")
    turns = [{"from": roles[index % 2], "value": value} for index, value in enumerate(turns)]
    return {"id": "fine", "conversations": turns} | columns


def turns(*pairs, **columns) -> dict:
    return {"id": "fine", "conversations": [{"from": role, "value": value} for role, value in pairs]} | columns


@pytest.fixture
def write(tmp_path):
    """Writes rows, and images of every kind, and returns the source."""
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
BROKEN = [
    ("missing image", "lost.jpg", row("<image>", "A bird.", image="lost.jpg")),
    ("truncated image", "cut.jpg", row("<image>", "A bird.", image="cut.jpg")),
    ("undecodable image", "text.jpg", row("<image>", "A bird.", image="text.jpg")),
    ("undecodable image", "empty.jpg", row("<image>", "A bird.", image="empty.jpg")),
    ("placeholder count differs", "2 placeholders, 1 images", row("<image><image>", "A bird.", image="good.png")),
    ("placeholder count differs", "0 placeholders, 1 images", row("What?", "A bird.", image="good.png")),
    ("placeholder count differs", "1 placeholders, 0 images", row("<image>What?", "A bird.")),
    ("empty turn", "message 1 has no content", row("What?", " \n")),
    ("empty turn", "message 2 has no content", row("What?", "A bird.", "", "Yes.")),
    ("empty turn", "message 0 has no content", turns(("system", ""), ("human", "Hi?"), ("gpt", "Hello."))),
    ("wrong order of turns", "has the role 'assistant' where", turns(("gpt", "A."), ("human", "B?"))),
    ("wrong order of turns", "has the role 'user' where", turns(("human", "A?"), ("human", "B?"), ("gpt", "C."))),
    ("wrong order of turns", "'assistant' is expected", turns(("human", "A?"), ("function", "B"), ("gpt", "C."))),
    ("no assistant turn", "1 turns", row("What?")),
    ("no assistant turn", "0 turns", row()),
    ("unknown kind of content", "'video'", {"messages": [
        {"role": "user", "content": [{"type": "video"}]}, {"role": "assistant", "content": "A bird."}
    ]}),
    ("malformed row", "it has the columns id, and nothing in messages; it needs messages", {"messages": None}),
    ("malformed row", "it needs 'role'", {"messages": [{"content": "Hi?"}, {"role": "assistant", "content": "A."}]}),
    ("malformed row", "one of its texts is 7; write it as a string", turns(("human", "3 + 4?"), ("gpt", 7))),
    ("malformed row", "has the from None; write it as a string", turns((None, "Hi?"), ("gpt", "Hello."))),
    ("malformed row", "it has the columns id, caption; it needs messages", {"caption": "A bird."}),
    ("malformed row", "an image is 3; it has to be", row("<image>", "A bird.", image=3)),
    ("answer cut by max_length", "tokens, of which 1024 can be kept", row("What?", "word " * 200)),
]  # fmt: skip
BAD_INPUT = {f"{reason}: {detail}": (raw_row, detail) for reason, detail, raw_row in BROKEN}


def summary(broken_rows: list[BrokenRow]) -> list[tuple]:
    return [(row.index, row.id, row.reason) for row in broken_rows]


def find_broken_rows(dataset, processor, max_length=None, hd=False) -> list[BrokenRow]:
    return validate.validate(dataset, RowValidator(processor, max_length, hd), progress=False)


def test_every_kind_of_broken_row_is_named(write, processor):
    broken = [{"id": None} | raw_row | {"id": f"broken {index}"} for index, (*_, raw_row) in enumerate(BROKEN)]
    rows = [*GOOD, *broken, GOOD[0]]
    dataset = load_data([write(rows)], seed=0)
    broken_rows = find_broken_rows(dataset, processor)
    expected = [(len(GOOD) + index, f"broken {index}", reason) for index, (reason, *_) in enumerate(BROKEN)]
    assert summary(broken_rows) == expected
    for problem, (_, detail, _) in zip(broken_rows, BROKEN, strict=True):
        assert detail in problem.detail


def test_lines_that_hold_no_row_or_no_text(processor, tmp_path):
    rows = [
        GOOD[4],
        3,
        row("What?", "A \ud83d.", id="x7"),
        row("<image>", "A bird.", image="\udcff.png", id="x8"),
        None,
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = load_data([DataSource(str(tmp_path / "rows.jsonl"))], seed=0)
    broken_rows = find_broken_rows(dataset, processor)
    assert summary(broken_rows) == [
        (index, name, "malformed row") for index, name in enumerate(("1", "x7", "x8", "4"), start=1)
    ]
    assert "it is 3; a row is a mapping" in broken_rows[0].detail and "surrogates not allowed" in broken_rows[1].detail


def test_bombs(write, processor, tmp_path):
    """Above the limit, but not above twice the limit, Pillow itself only warns."""
    PIL.Image.new("1", (PIL.Image.MAX_IMAGE_PIXELS // 8000 + 1, 8000)).save(tmp_path / "bomb.png")
    dataset = load_data([write([GOOD[0], row("<image>", "White.", image="bomb.png")])], seed=0)
    [broken_row] = find_broken_rows(dataset, processor)
    assert (broken_row.index, broken_row.reason) == (1, "decompression bomb")
    assert f"bomb.png has more than {PIL.Image.MAX_IMAGE_PIXELS:,} pixels" in broken_row.detail


@pytest.mark.parametrize("hd", [False, True])
def test_length_is_that_of_the_processor(hd, write, processor):
    rows = [row("<image>\nWhat </s>?", "A bird.", "And <image>?", "None.", image=["good.png", "good.jpg"])]
    dataset = load_data([write(rows)], seed=0)
    messages = json.loads(json.dumps(dataset["messages"][0]))
    images = iter([PIL.Image.open(image["path"]) for image in dataset[0]["images"]])
    for part in (part for message in messages for part in message["content"] if part["type"] == "image"):
        part["image"] = next(images)
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, hd=hd)
    length = len(inputs["input_ids"][0])
    assert find_broken_rows(dataset, processor, length, hd) == []
    [broken_row] = find_broken_rows(dataset, processor, length - 1, hd)
    assert (broken_row.reason, broken_row.detail) == (
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
        {"id": str(index), "images": [image], "messages": messages, "num_images": 1, "length": 6, "problem": None}
        for index, image in enumerate([{"bytes": good, "path": None}, {"bytes": cut, "path": "cut.jpg"}, None])
    ]
    dataset = Dataset.from_list(rows, features=FEATURES)
    broken_rows = find_broken_rows(dataset, processor)
    assert summary(broken_rows) == [(1, "1", "truncated image"), (2, "2", "missing image")]


def test_messages_do_not_quote_a_whole_image(write, processor, tmp_path):
    """Of base64 that is cut off, of a name that is none, of an id, and of a role."""
    long = "A" * 300_000
    rows = [
        row("<image>", "A bird.", image="data:image/png;base64," + long + "!"),
        row("<image>", "A bird.", image=f"{long}.png"),
        row("<image>", "A bird.", image="/9j/" + long),
        row("Hi?", id=long),
        turns(("human", "Hi?"), (long, "A.")),
        {"caption" + long: 1},
        {"messages": [{"role": "user", "content": long, "tools": long}]},
        {"messages": long},
    ]
    source = write([*GOOD, *rows])
    validation, data = start_validation(source, processor, tmp_path)
    for problem in validation.validate_all(*data):
        assert len(problem.id) < 400 and len(problem.detail) < 400
    with pytest.raises(ValueError, match="8 of 13 rows are broken") as error:
        validation.rows_to_skip(*data, "stop")
    assert len(str(error.value)) < 1000
    with pytest.raises(ValueError, match="no row that can be read") as error:
        load_data([write([rows[5]])], seed=0)
    assert len(str(error.value)) < 1000


SECRETS = ("PASS", "WORD", "SIGN")
ADDRESS = "https://user:PASSWORD@127.0.0.1:1/gone.png?sig=SIGN"


@pytest.mark.parametrize("streaming", [False, True])
def test_addresses_leave_no_secrets_in_reports_and_files(streaming, write, processor, tmp_path, caplog):
    places = {
        "image": {"image": ADDRESS.replace("https", "nowhere")},
        "id": {"id": ADDRESS},
        "key": {"image_path": ADDRESS},
        "video": {"videos": [{"url": ADDRESS}]},
        "part": {"image": {"url": ADDRESS}},
    }
    rows = [row("<image>" if "image" in place else "Hi?", **place) for place in places.values()]
    source = write([*GOOD, *rows], streaming=streaming)
    validation, data = start_validation(source, processor, tmp_path)
    broken_rows = validation.validate_all(*data)
    assert len(broken_rows) == len(places)
    validation.rows_to_skip(*data, "skip")
    with pytest.raises(ValueError, match="rows are broken|of the stream") as error:
        validation.rows_to_skip(*data, "stop")
    write_jsonl(broken_rows, tmp_path / "out" / "broken.jsonl")
    shown = [report(broken_rows), str(error.value), caplog.text]
    shown += [file.read_text() for file in (tmp_path / "out").glob("*.jsonl")]
    assert not any(secret in text for text in shown for secret in SECRETS)


def test_many_rows_and_streams(write, processor):
    rows = [row("Hi?", "" if index in (40, 99) else "Hello.", id=index) for index in range(100)]
    broken_rows = find_broken_rows(load_data([write(rows)], seed=0), processor)
    assert summary(broken_rows) == [(40, "40", "empty turn"), (99, "99", "empty turn")]
    stream = load_data([write(rows, streaming=True)], seed=0)
    assert {problem.id for problem in find_broken_rows(stream, processor)} == {"40", "99"}


def start_validation(source, processor, tmp_path, max_length=None):
    """A validation that keeps its result in the folder "out", and what it validates: the data and its fingerprint."""
    dataset = load_data([source], seed=0)
    validation = DataValidation(processor, max_length, False, tmp_path / "out", progress=False)
    return validation, (dataset, fingerprint(dataset, [source]))


@pytest.fixture
def read(monkeypatch):
    """Number of rows that were read, at each validation."""
    numbers, original = [], validate.validate
    monkeypatch.setattr(
        validate, "validate", lambda dataset, *others: numbers.append(len(dataset)) or original(dataset, *others)
    )
    return numbers


def test_result_is_kept_for_the_same_data_and_settings(write, processor, tmp_path, read):
    source = write([*GOOD, row("<image>", "A bird.", image="good.png", id="x7")])
    for settings, rows in (({}, [6]), ({}, []), ({"max_length": 20}, [6]), ({"max_length": 20}, [6])):
        read.clear()
        validation, data = start_validation(source, processor, tmp_path, **settings)
        broken_rows = validation.validate_changed(*data)
        assert read == rows and bool(broken_rows) == bool(settings)
    read.clear()
    (tmp_path / "moved").mkdir()
    for file in ("rows.json", "good.png", "good.jpg", "gif named.jpg"):
        (tmp_path / file).rename(tmp_path / "moved" / file)
    validation, data = start_validation(
        DataSource(str(tmp_path / "moved" / "rows.json")), processor, tmp_path, max_length=20
    )
    assert validation.validate_changed(*data) == broken_rows and read == [len(broken_rows)]
    validation, data = start_validation(write(GOOD[3:]), processor, tmp_path)
    assert validation.validate_changed(*data) == [] and read == [len(broken_rows), 2]


def test_files_that_changed_after_the_check_are_read_again(write, processor, tmp_path, read):
    validation, data = start_validation(write(GOOD), processor, tmp_path)
    assert validation.validate_all(*data) == []
    (tmp_path / "good.png").unlink()
    (tmp_path / "good.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes())
    with pytest.raises(ValueError, match="2 of 5 rows are broken, the first is row 0, id 'fine' .missing image"):
        validation.rows_to_skip(*data, "stop")
    make_image(0).save(tmp_path / "good.png")
    assert summary(validation.validate_changed(*data)) == [(1, "fine", "truncated image")]
    assert read == [5, 2, 2]
    # Half of a result is none.
    for name in ("data_check.npy", "data_check.jsonl"):
        file = tmp_path / "out" / name
        for content in (b"", file.read_bytes()[:-9]):
            read.clear()
            file.write_bytes(content)
            assert summary(validation.validate_changed(*data)) == [(1, "fine", "truncated image")]
            assert read == [5]


def test_only_broken_rows_are_read_again_and_repaired_ones_are_back(write, processor, tmp_path, read):
    rows = [*GOOD, row("<image>", "A bird.", image="lost.jpg"), row("What?", id="x7")]
    validation, data = start_validation(write(rows), processor, tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="2 of 7 rows are broken, the first is row 5"):
            validation.rows_to_skip(*data, "stop")
    assert validation.rows_to_skip(*data, "skip") == [5, 6]
    make_image(0).save(tmp_path / "lost.jpg")
    with pytest.raises(ValueError, match="1 of 7 rows are broken, the first is row 6, id 'x7'"):
        validation.rows_to_skip(*data, "stop")
    assert read == [7, 2, 2, 2]
    assert validation.rows_to_skip(*data, "skip") == [6]


def test_a_run_that_goes_on_has_the_rows_that_it_began_with(write, processor, tmp_path):
    rows = [*GOOD, row("<image>", "A bird.", image="lost.jpg", id="line\u2028break")]
    validation, data = start_validation(write(rows), processor, tmp_path)
    assert validation.rows_to_skip(*data, "skip") == [5]
    make_image(0).save(tmp_path / "lost.jpg")
    # How broken rows are taken now does not matter: this one is repaired, and stays out.
    for on_broken_rows in ("stop", "skip"):
        assert validation.rows_to_skip(*data, on_broken_rows, is_resumed=True) == [5]
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match="row 0, id 'fine', has become broken since the run began .missing image: "):
        validation.rows_to_skip(*data, "skip", is_resumed=True)


def test_stop_and_skip(write, processor, tmp_path, caplog):
    validation, data = start_validation(write([GOOD[0], row("What?", id="x7"), GOOD[3]]), processor, tmp_path)
    with pytest.raises(ValueError, match="1 of 3 rows are broken, the first is row 1, id 'x7' .no assistant turn"):
        validation.rows_to_skip(*data, "stop")
    assert "no assistant turn" in caplog.text
    good = without(data[0], validation.rows_to_skip(*data, "skip"))
    assert good["messages"][:] == [data[0]["messages"][0], data[0]["messages"][2]]
    [skipped] = (tmp_path / "out" / "skipped_rows.jsonl").read_text().splitlines()
    assert json.loads(skipped) == {"index": 1, "id": "x7", "reason": "no assistant turn", "detail": "1 turns"}


def test_nothing_left_and_nothing_wrong(write, processor, tmp_path):
    validation, data = start_validation(write([row("What?")]), processor, tmp_path)
    with pytest.raises(ValueError, match="All 1 rows are broken, the first by: no assistant turn"):
        validation.rows_to_skip(*data, "skip")
    validation, data = start_validation(write(GOOD), processor, tmp_path)
    assert validation.rows_to_skip(*data, "stop") == [] and without(data[0], []) is data[0]
    assert not (tmp_path / "out" / "skipped_rows.jsonl").exists()


def test_a_stream_that_was_validated_stops_before_it_is_read(write, processor, tmp_path):
    validation, data = start_validation(write([*GOOD, row("What?", id="x7")], streaming=True), processor, tmp_path)
    assert validation.rows_to_skip(*data, "stop") == []
    assert summary(validation.validate_all(*data))[0][1:] == ("x7", "no assistant turn")
    with pytest.raises(ValueError, match="1 of the stream's rows are broken, .* id 'x7'.* run `data check` again"):
        validation.rows_to_skip(*data, "stop")
    assert validation.rows_to_skip(*data, "skip") == []
    validation, data = start_validation(write(GOOD, streaming=True), processor, tmp_path)
    assert validation.rows_to_skip(*data, "stop") == []


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
    assert cli.main([*arguments, "--jsonl", str(tmp_path / "broken.jsonl")]) == 2
    output = capsys.readouterr()
    assert output.out.startswith("Broken rows: 1\n") and "x7" in output.out
    assert output.err.splitlines()[-1].startswith("flashsloth data check: error: 1 of the rows are broken")
    assert json.loads((tmp_path / "broken.jsonl").read_text())["id"] == "x7"
    write(GOOD)
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "No broken rows.\n"
    # Training does not read it all again.
    validation, data = start_validation(DataSource(config["data"]["path"]), processor, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(validate, "validate", lambda *others: pytest.fail("read again"))
        assert validation.rows_to_skip(*data, "stop") == []
    assert cli.main([*arguments, f"model={tmp_path / 'no model'}"]) == 2
    assert "no model" in capsys.readouterr().err
