# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Streams with broken rows: they stop a run, which names them, or they are skipped, by every run alike."""

import itertools
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from samples import QUICK_RUN, make_image, make_model
from torch.utils.data import DataLoader

import flashsloth
from flashsloth.cli import main
from flashsloth.train.collator import Collator
from flashsloth.train.data import DataSource, images, load_data
from flashsloth.train.data.broken_rows import BrokenRowError, skipped_rows
from flashsloth.train.data.images import UnreachableImage
from flashsloth.train.data.streams import EndlessStream, StreamFilter
from flashsloth.train.data.validate import RowValidator, validate


CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs"
BROKEN = {"b3": "truncated image", "b7": "empty turn"}


@pytest.fixture
def source(tmp_path) -> DataSource:
    """Twelve rows with an image each; one image is cut off, and another has an empty answer."""
    make_image(0, 60, 60).save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-1000])
    rows = []
    for index in range(12):
        answer = "" if index == 7 else f"It is {index}."
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
        rows.append({"id": f"b{index}", "image": "cut.jpg" if index == 3 else "good.jpg", "conversations": turns})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return DataSource(str(tmp_path / "rows.jsonl"), streaming=True)


def open_stream(sources, processor, on_broken_rows, folder) -> EndlessStream:
    return EndlessStream(load_data(sources, 0), 0, StreamFilter(processor, None, False, on_broken_rows, folder))


def first_rows(stream, count: int) -> list[dict]:
    return list(itertools.islice(stream, count))


GOOD = {f"b{index}" for index in range(12)} - BROKEN.keys()


def test_passes_have_no_end_and_leave_broken_rows_out(source, processor, tmp_path):
    stream = open_stream([source], processor, "skip", tmp_path / "out")
    ids = [row["id"] for row in first_rows(stream, 30)]
    passes = [ids[:10], ids[10:20], ids[20:]]
    assert all(set(one) == GOOD for one in passes)
    assert len(set(map(tuple, passes))) == 3  # each has another order
    assert ids == [row["id"] for row in first_rows(stream, 30)]
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped_rows.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reason"] for row in listed} == BROKEN and len(listed) == 2
    assert {row["source"] for row in listed} == {source.path}
    # A run that was killed may have left half a line.
    with (tmp_path / "out" / "skipped_rows.jsonl").open("a") as file:
        file.write('{"source": "ro')
    assert skipped_rows(tmp_path / "out") == listed


def test_many_rows_of_a_mixture_are_checked_and_collated_by_workers(processor, tmp_path):
    """The filter and the collator share a tokenizer, and `datasets` reads ahead in threads."""
    sources = []
    for name, count in (("a", 900), ("b", 300)):
        (tmp_path / name).mkdir()
        for file in range(3):
            rows = [
                {
                    "id": f"{name}{row}",
                    "prompt": f"What is {row}?",
                    "completion": "" if row % 50 == 0 else "So. " * (row % 9),
                }
                for row in range(file, count, 3)
            ]
            (tmp_path / name / f"{file}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        sources.append(DataSource(str(tmp_path / name / "*.jsonl"), streaming=True))
    stream = open_stream(sources, processor, "skip", tmp_path / "out")

    def collate(rows):
        return [row["id"] for row in rows], Collator(processor, assistant_only_loss=True)(rows)["labels"].shape[0]

    loader = DataLoader(stream, batch_size=8, num_workers=2, collate_fn=collate)
    names = []
    for ids, rows in itertools.islice(loader, 60):
        assert rows == len(ids) == 8
        names += ids
    skipped = {row["id"] for row in skipped_rows(tmp_path / "out")}
    expected = {f"{name}{row}" for name, count in (("a", 900), ("b", 300)) for row in range(count)}
    assert len(set(names)) == 480 and set(names) <= expected  # within the first pass
    assert skipped and not skipped & set(names)


def test_rows_without_an_id_have_a_name_of_their_own(processor, tmp_path):
    rows = [{"prompt": f"What is {row}?", "completion": ""} for row in range(4)] + [
        {"prompt": "A?", "completion": "B."}
    ]
    for file in range(2):
        (tmp_path / f"{file}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        questions = {key: [f"{row[key]}{file}" if row[key] else "" for row in rows] for key in rows[0]}
        datasets.Dataset.from_dict(questions).to_parquet(tmp_path / f"{file}.parquet")
    for kind in ("jsonl", "parquet"):
        source = DataSource(str(tmp_path / f"*.{kind}"), streaming=True)
        first_rows(open_stream([source], processor, "skip", tmp_path / kind), 4)
        assert len({row["id"] for row in skipped_rows(tmp_path / kind)}) == 8
    assert {row["id"] for row in skipped_rows(tmp_path / "jsonl")} == {
        f"{f}.jsonl:{row}" for f in range(2) for row in range(4)
    }


def test_a_broken_row_stops_a_worker_with_one_line_that_names_it(source, processor, tmp_path):
    stream = open_stream([source], processor, "stop", tmp_path / "out")
    with pytest.raises(BrokenRowError) as error:
        first_rows(DataLoader(stream, batch_size=None, num_workers=1), 12)
    assert str(error.value).startswith(f"{source.path}: the row with the id 'b")
    assert "\n" not in str(error.value) and "on_broken_rows=skip" in str(error.value)
    assert not skipped_rows(tmp_path / "out")


def test_what_is_mixed_into_a_stream_is_checked_as_well(source, processor, tmp_path):
    paths = [source.path]
    for name in ("second", "third"):
        paths.append(str(shutil.copy(source.path, tmp_path / f"{name}.jsonl")))
    sources = [source, DataSource(paths[1], streaming=True), DataSource(paths[2])]
    rows = first_rows(open_stream(sources, processor, "skip", tmp_path / "out"), 31)
    assert {(row["source"], row["id"]) for row in rows} == {(path, name) for path in paths for name in GOOD}
    skipped = {(row["source"], row["id"]) for row in skipped_rows(tmp_path / "out")}
    assert skipped == {(path, name) for path in paths for name in BROKEN}


def test_a_row_of_no_known_form_names_the_stream(processor, tmp_path):
    rows = {"messages": [[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}], [None]]}
    source = DataSource(str(tmp_path / "rows.parquet"), streaming=True)
    datasets.Dataset.from_dict(rows).to_parquet(source.path)
    with pytest.raises(BrokenRowError, match="rows.parquet: the row with the id '.*' is broken .malformed row: its"):
        first_rows(open_stream([source], processor, "stop", tmp_path / "out"), 2)
    [row, again] = first_rows(open_stream([source], processor, "skip", tmp_path / "out"), 2)
    assert row == again and row["messages"][0]["content"][0]["text"] == "Hi?"


def test_images_of_servers(source, processor, tmp_path, monkeypatch):
    """One that is gone is broken; one that cannot be fetched now is not the fault of its row."""
    monkeypatch.setattr(images, "RETRY_WAITS", (0.01,))
    good = (tmp_path / "good.jpg").read_bytes()
    answers = {"/good.jpg": (200, good), "/cut.jpg": (404, b""), "/down.jpg": (503, b"")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, content = answers[self.path]
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    rows = Path(source.path).read_text()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        Path(source.path).write_text(rows.replace('"image": "', f'"image": "{address}/'))
        stream = first_rows(open_stream([source], processor, "skip", tmp_path / "out"), 11)
        assert len({row["id"] for row in stream}) == 10
        batch = Collator(processor, assistant_only_loss=True)(stream[:2])
        assert len(batch["pixel_values"]) == 2
        skipped = {row["id"]: row["reason"] for row in skipped_rows(tmp_path / "out")}
        assert skipped == BROKEN | {"b3": "missing image"}
        Path(source.path).write_text(rows.replace('"image": "good', f'"image": "{address}/down'))
        with pytest.raises(UnreachableImage, match="down.jpg cannot be fetched: the server answered 503"):
            first_rows(open_stream([source], processor, "skip", tmp_path / "down"), 12)
        server.shutdown()
    dataset = load_data([DataSource(source.path)], 0)
    with pytest.raises(UnreachableImage, match="^http://127.0.0.1:.*down.jpg cannot be fetched: ") as error:
        validate(dataset, RowValidator(processor, None, hd=False), progress=False)  # in a worker
    assert "\n" not in str(error.value)
    assert not skipped_rows(tmp_path / "down")


def test_a_stream_without_a_good_row(source, processor, tmp_path, capsys):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    Path(source.path).write_text(Path(source.path).read_text().replace("good.jpg", "cut.jpg"))
    command = ["train", str(CONFIGS / "stage1.yaml"), f"model={tmp_path / 'model'}", "max_steps=3", *QUICK_RUN]
    data = [f"data={{path: {source.path}, streaming: true}}", f"output_dir={tmp_path / 'out'}", "on_broken_rows=skip"]
    assert main([*command, *data]) == 2
    assert "no step was trained: the stream has broken rows only" in capsys.readouterr().err.splitlines()[-1]
    assert len(skipped_rows(tmp_path / "out")) == 12


def test_training_skips_and_a_resumed_run_skips_the_same(source, processor, tmp_path, capsys):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    command = [
        "train",
        str(CONFIGS / "stage1.yaml"),
        f"model={tmp_path / 'model'}",
        f"data={{path: {source.path}, streaming: true}}",
        f"output_dir={tmp_path / 'out'}",
        "max_steps=7",
        "save_steps=6",  # in the third pass over the ten good rows
        *QUICK_RUN,
        "dataloader_num_workers=1",
    ]
    assert main(command) == 2
    assert f"{source.path}: the row with the id 'b" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").glob("checkpoint-*"))

    weights = []
    for _ in range(2):
        assert main([*command, "on_broken_rows=skip"]) == 0
        weights.append(load_file(tmp_path / "out" / "model" / "model.safetensors"))
        skipped = json.loads((tmp_path / "out" / "training.json").read_text())["data"]["skipped"]
        assert {row["id"]: row["reason"] for row in skipped} == BROKEN
        shutil.rmtree(tmp_path / "out" / "model")
        shutil.rmtree(tmp_path / "out" / "checkpoint-7")
    first, second = weights
    assert all(torch.equal(first[name], second[name]) for name in first)
