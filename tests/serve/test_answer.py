# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth answer` as users run it: killed and run again, refused in one line, with errors beside their rows."""

import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow
import pytest
from datasets import Dataset, Features, Image, Value
from pyarrow import parquet
from samples import encode_image, make_image

import flashsloth
from flashsloth.cli import main
from flashsloth.folders.lock import locked
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.serve import answer, answer_files
from flashsloth.serve.answer_files import Answered


NUM_ROWS = 40
BROKEN = 7
WAIT = 180  # seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Questions about images that are embedded in a Parquet file; one is torn."""
    folder = tmp_path_factory.mktemp("set")
    features = Features(
        {"id": Value("int32"), "question": Value("string"), "image": Image(), "answer": Value("string")}
    )
    rows = [
        {"id": 1000 + n, "question": f"What is in picture {n}?", "image": picture(n), "answer": f"label {n}"}
        for n in range(NUM_ROWS)
    ]
    Dataset.from_list(rows, features).to_parquet(folder / "q.parquet")
    return folder


def picture(index: int) -> dict:
    content = encode_image(make_image(index))
    return {"bytes": content[:90] if index == BROKEN else content, "path": None}


def words(folder, *more) -> list[str]:
    command = ["answer", str(folder / "q.parquet"), "--output", str(folder / "out"), "--format", "parquet"]
    return [*command, "--answer-column", "prediction", "--max-new-tokens", "6", "--batch-size", "2", *more]


def num_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def kill_in_the_middle(folder) -> set[psutil.Process]:
    """Kills the command once some rows are answered; returns the processes that it had started."""
    journal = folder / "out" / answer_files.UNFINISHED
    with subprocess.Popen([sys.executable, "-m", "flashsloth", *words(folder, "--workers", "1")]) as command:
        end = time.monotonic() + WAIT
        while num_lines(journal) < 2 and command.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        started = psutil.Process(command.pid).children(recursive=True)
        command.kill()
    return set(started)


def test_a_command_that_is_killed_and_run_again_loses_and_repeats_no_row(folder, capfd, caplog):
    started = kill_in_the_middle(folder)
    answered = num_lines(folder / "out" / answer_files.UNFINISHED)
    assert 2 <= answered < NUM_ROWS
    _, alive = psutil.wait_procs(started, timeout=WAIT)
    assert not alive, "the command leaves processes behind"

    capfd.readouterr()
    assert main(words(folder, "--hd")) == 2  # other settings
    assert "differs in settings, hd (None there, True now)" in capfd.readouterr().err
    assert main(words(folder, "--workers", "2", "--batch-size", "5")) == 1
    output = capfd.readouterr()
    assert output.out == f"{folder / 'out' / 'answers.parquet'}\n"
    assert f"{answered} rows are answered already" in caplog.messages
    last = f"1 of {NUM_ROWS} rows have an error in place of an answer; the first is row {BROKEN + 1}: "
    assert output.err.splitlines()[-1].startswith(last)

    table = parquet.read_table(folder / "out" / "answers.parquet")
    assert table.column_names == ["id", "question", "answer", "prediction", "error"]
    assert str(table.schema.field("id").type) == "int32"
    model = flashsloth.load(str(SHIPPED_CHECKPOINT))
    for index, row in enumerate(table.to_pylist()):
        assert (row["id"], row["answer"]) == (1000 + index, f"label {index}")
        assert (row["prediction"] is None) == (index == BROKEN) == (row["error"] is not None)
        if index != BROKEN and index % 5 == 0:
            assert row["prediction"] == str(model.ask(make_image(index), row["question"], max_new_tokens=6))
    report = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["counts"] == {"rows": NUM_ROWS, "errors": 1}
    assert [listed["row"] for listed in report["errors"]] == [BROKEN + 1]
    assert report["last_run"]["rows"] == NUM_ROWS - answered
    assert {file.name for file in (folder / "out").iterdir()} == {"answers.parquet", "report.json", "run.lock"}

    assert main(words(folder)) == 1  # the same again: nothing is left to ask
    assert caplog.messages[-1] == "All rows are answered already"
    assert parquet.read_table(folder / "out" / "answers.parquet") == table

    assert main([*words(folder), "--answer-column", "other"]) == 2
    message = "is finished, with the columns 'prediction' and 'error': give them as --answer-column"
    assert message in capfd.readouterr().err
    with (folder / "out" / "answers.parquet").open("r+b") as file:
        file.truncate(1000)
    assert main(words(folder)) == 2
    assert "answers.parquet is damaged or was edited: it has 1,000 bytes, and had " in capfd.readouterr().err


@pytest.mark.parametrize("when", ["in the middle", "at the end"])
def test_questions_that_change_while_they_are_asked(when, tmp_path, monkeypatch, capfd, caplog):
    """Their answers would stand beside other rows. Those that came before are kept."""
    file, output = tmp_path / "q.jsonl", tmp_path / "out"
    text = "".join(f'{{"question": "{number}"}}\n' for number in range(4))
    file.write_text(text)

    def answer_batches(questions, done, *_):
        for row in list(questions.rows(done)):
            if row.index == 2 and when == "in the middle":
                file.write_text(text.upper().replace("3", "9"))
            yield [Answered(row.index, f"to {row.question}", None)]
        if when == "at the end":
            file.write_text("")

    monkeypatch.setattr(answer, "ray_session", lambda *_: contextlib.nullcontext(SimpleNamespace(count=1)))
    with monkeypatch.context() as patch:
        patch.setattr(answer, "answer_batches", answer_batches)
        assert main(["answer", str(file), "--output", str(output)]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert f"{file} was changed while its rows were answered. Put it back as it was" in line
    assert not (output / "answers.jsonl").exists() and not (output / "report.json").exists()

    file.write_text(text)  # back as it was
    patched = [[Answered(number, f"to {number}", None)] for number in range(4)]
    monkeypatch.setattr(answer, "answer_batches", lambda questions, done, *_: patched[sum(done) :])
    assert main(["answer", str(file), "--output", str(output)]) == 0
    assert f"{2 if when == 'in the middle' else 4} rows are answered already" in caplog.messages
    rows = map(json.loads, (output / "answers.jsonl").read_text().splitlines())
    assert [(row["question"], row["answer"]) for row in rows] == [(str(n), f"to {n}") for n in range(4)]


def test_columns_of_texts_have_their_type_where_every_row_failed(tmp_path, monkeypatch):
    (tmp_path / "q.jsonl").write_text('{"question": "What?"}\n')
    monkeypatch.setattr(answer, "ray_session", lambda *_: contextlib.nullcontext(SimpleNamespace(count=1)))
    monkeypatch.setattr(answer, "answer_batches", lambda *_: [[Answered(0, None, "broken")]])
    command = ["answer", str(tmp_path / "q.jsonl"), "--output", str(tmp_path / "out"), "--format", "parquet"]
    assert main(command) == 1
    schema = parquet.read_schema(tmp_path / "out" / "answers.parquet")
    assert [str(schema.field(name).type) for name in ("question", "answer", "error")] == ["string"] * 3


@pytest.fixture
def lines(tmp_path) -> Path:
    (tmp_path / "q.jsonl").write_text('{"question": "What?", "answer": "This."}\n', encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "q.jsonl has a column 'answer': name another one by --answer-column"),
        (["--answer-column", "question"], "q.jsonl has a column 'question': name another one by --answer-column"),
        (["--answer-column", "a", "--error-column", "a"], "--answer-column and --error-column are both 'a'"),
        (["--answer-column", "a", "--question-column", "text"], "has no column 'text'"),
        (["--answer-column", "a", "--model", "nowhere"], "No model folder at 'nowhere'"),
        (["--answer-column", "a", "--max-new-tokens", "0"], "not a whole number of 1 or more"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_written(words, message, lines, capfd):
    command = ["answer", str(lines / "q.jsonl"), "--output", str(lines / "out"), *words]
    try:
        status = main(command)
    except SystemExit as stop:
        status = stop.code
    error = capfd.readouterr().err
    assert status == 2 and message in error and len(error.splitlines()) == 1
    assert not (lines / "out").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1" + "0" * 30, "column 'n', row 2 .*too large.*: give --format jsonl"),
        ("{}", "column 'n', row 2 .*no child field.*: give --format jsonl"),
        (r'"\ud800"', "column 'n', row 2 .*surrogates not allowed.*: give --format jsonl"),
        ("[[1], 1]", "column 'n', row 2 .*: give --format jsonl"),
    ],
)
def test_what_parquet_cannot_hold_is_named_before_anything_is_asked(value, message, tmp_path, capfd):
    rows = ['{"question": "What?", "n": null}', f'{{"question": "What?", "n": {value}}}']
    (tmp_path / "q.jsonl").write_text("\n".join(rows), encoding="utf-8")
    command = ["answer", str(tmp_path / "q.jsonl"), "--output", str(tmp_path / "out"), "--format", "parquet"]
    assert main(command) == 2
    error = capfd.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_damaged_value_of_any_column_is_named_before_anything_is_asked(tmp_path, capfd):
    taken = pyarrow.array([None, 0], pyarrow.timestamp("us", tz="Europe/Nowhere"))
    parquet.write_table(pyarrow.table({"question": ["What?"] * 2, "taken": taken}), tmp_path / "q.parquet")
    for file_format in ("jsonl", "parquet"):
        command = ["answer", str(tmp_path / "q.parquet"), "--output", str(tmp_path / "out"), "--format", file_format]
        assert main(command) == 2
        error = capfd.readouterr().err
        assert "q.parquet, column 'taken', row 2 cannot be read" in error and len(error.splitlines()) == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["set", "set/answers", "set/../set/deep/answers"])
def test_answers_in_the_folder_of_the_questions_are_refused(output, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    Path("set/q.jsonl").write_text('{"question": "What?"}', encoding="utf-8")
    assert main(["answer", "set", "--output", output]) == 2
    error = capfd.readouterr().err
    assert f"--output '{output}' is in the folder of the questions" in error and len(error.splitlines()) == 1
    assert [file.name for file in Path("set").iterdir()] == ["q.jsonl"]


def test_a_folder_in_use_is_refused(lines, capfd):
    with locked(lines / "out"):
        assert main(["answer", str(lines / "q.jsonl"), "--output", str(lines / "out"), "--answer-column", "a"]) == 2
    assert "Another run is writing into" in capfd.readouterr().err
