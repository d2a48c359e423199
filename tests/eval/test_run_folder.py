# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A run's folder takes one run at a time, and holds answers of which it says whose they are."""

import json
import os
import shutil

import pytest
from benchmark_files import read_lines, write_benchmark

from flashsloth import cli, loading
from flashsloth.eval import greedy
from flashsloth.eval.files import write_json
from flashsloth.eval.run_folder import begin_note, check_output, note_dtype, noted_dtype
from flashsloth.folders.lock import locked
from flashsloth.loading import SHIPPED_CHECKPOINT


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The files of a benchmark, and the folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("whole")
    files = write_benchmark("gqa", folder / "gqa")
    assert cli.main(["eval", *files.arguments, *MODEL, "--output", str(folder / "out")]) == 0
    return files, folder / "out"


MODEL = ["--model", str(SHIPPED_CHECKPOINT), "--dtype", "float32"]
LINE = '{"question_id": "201307251", "prompt": "Is it overcast?", "text": "no"}\n'


def change_note(**fields):
    def edit(output):
        note = json.loads((output / "run.json").read_text()) | fields
        write_json({name: value for name, value in note.items() if value != "gone"}, output / "run.json")

    return edit


def write_note(text):
    return lambda output: (output / "run.json").write_text(text)


def write_answers(text):
    return lambda output: (output / "answers.jsonl").write_text(text)


def write_part(text):
    return lambda output: (output / "answers.part-0.jsonl").write_text(text)


def make_folder(name):
    def edit(output):
        (output / name).unlink(missing_ok=True)
        (output / name).mkdir()

    return edit


def replace_by_file(output):
    shutil.rmtree(output)
    output.touch()


def replace_submission(output):
    shutil.rmtree(output / "submission")
    (output / "submission").touch()


# What became of the folder of a run that has ended, and a part of the message.
BAD_INPUT = {
    "a file in the place of the folder": (replace_by_file, "is no folder. Name another"),
    "a folder in the place of the report": (make_folder("report.json"), "report.json is a folder, in the place of a"),
    "a folder in the place of the answers": (
        make_folder("answers.jsonl"),
        "answers.jsonl is a folder, in the place of",
    ),
    "a file in the place of the submission": (replace_submission, "submission is a file, in the place of a folder"),
    "answers without run.json": (lambda output: (output / "run.json").unlink(), "of which nothing says whose"),
    "an empty run.json": (write_note(""), "run.json is not JSON"),
    "a list in run.json": (write_note("[1]"), "run.json is a list, not an object. The file is damaged: name another"),
    "run.json without the model": (change_note(model="gone"), "run.json has no 'model'"),
    "run.json without the dtype": (change_note(dtype="gone"), "run.json has no 'dtype'"),
    "run.json with other images": (change_note(images={}), "holds an answer about another image n161313.jpg"),
    "run.json with images of null": (change_note(images=None), "run.json: its 'images' is None, not an object"),
    "the answers of another model": (change_note(model={"folder": "a"}), "of a run that differs in its model"),
    "the answers to other questions": (change_note(questions="0"), "of a run that differs in its questions"),
    "an answer without its question": (
        write_answers(LINE + '{"a": 1}\n'),
        "answers.jsonl, line 2 has no 'question_id'",
    ),
    "an answer that is no object": (write_part("[]\n"), "answers.part-0.jsonl, line 1 is a list, not an object"),
    "an answer of null": (write_answers(LINE.replace('"no"', "null")), "answers.jsonl, line 1: its 'text' is None"),
    "an answer that is cut in the middle of the file": (
        write_part(LINE[:30] + "\n" + LINE),
        "answers.part-0.jsonl, line 1 is not JSON",
    ),
    "bytes in the file of answers": (
        lambda output: (output / "answers.jsonl").write_bytes(b"\xff\xff\n"),
        "answers.jsonl is not text in UTF-8",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_a_damaged_folder_is_one_line(whole_run, tmp_path, capsys, monkeypatch, spoil, message):
    files, whole = whole_run
    output = shutil.copytree(whole, tmp_path / "out")
    spoil(output)
    monkeypatch.setattr(loading, "load_model_and_processor", None)  # the model is not loaded
    assert cli.main(["eval", *files.arguments, *MODEL, "--output", str(output)]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("flashsloth eval: error: ") and message in line and captured.out == ""


def test_the_remedy_for_a_damaged_line_helps(whole_run, tmp_path, capsys):
    """Without the line that was named, its question is asked again, and the report is the same."""
    files, whole = whole_run
    output, command = shutil.copytree(whole, tmp_path / "out"), ["eval", *files.arguments, *MODEL, "--output"]
    lines = (output / "answers.jsonl").read_text().splitlines(keepends=True)
    (output / "answers.jsonl").write_text("".join([*lines[:1], lines[1][:40] + "\n", *lines[2:]]))
    assert cli.main([*command, str(output)]) == 2
    assert "answers.jsonl, line 2 is not JSON" in capsys.readouterr().err
    (output / "answers.jsonl").write_text("".join([*lines[:1], *lines[2:]]))
    assert cli.main([*command, str(output)]) == 0
    for name in ("answers.jsonl", "report.json", "outcomes.json"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("spoil", [write_note("{"), change_note(model={"folder": "a"}), change_note(images={})])
def test_a_note_beside_no_answers_does_not_matter(whole_run, tmp_path, capsys, spoil):
    """A run that was stopped before its first answer leaves such a folder."""
    files, whole = whole_run
    output = shutil.copytree(whole, tmp_path / "out")
    (output / "answers.jsonl").unlink()
    spoil(output)
    assert cli.main(["eval", *files.arguments, *MODEL, "--output", str(output)]) == 0
    assert (output / "run.json").read_bytes() == (whole / "run.json").read_bytes()


@pytest.mark.parametrize("output", ["x" * 300, "file", "file/a", "link", "loop"])
def test_a_folder_that_cannot_be_made(tmp_path, output):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="cannot be made: .* Name another"):
        check_output(tmp_path / output, ())
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written to"):
        check_output(tmp_path / "out", ())


@pytest.mark.parametrize("output", ["new", "new/newer", ".", "folder"])
def test_a_folder_that_can_be_written(tmp_path, output):
    (tmp_path / "folder").mkdir()
    check_output(tmp_path / output, ("report.json",))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]  # nothing was made


# The lock


def test_a_second_run_in_a_folder_is_refused(whole_run, tmp_path, capsys):
    files, whole = whole_run
    output = shutil.copytree(whole, tmp_path / "out")
    before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
    with locked(output):
        assert cli.main(["eval", *files.arguments, *MODEL, "--output", str(output)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"flashsloth eval: error: Another run is writing into {output}: wait until it has ended, or name another "
        f"folder with --output. If there is none, remove {output / 'run.lock'}."
    )
    assert {file: file.read_bytes() for file in output.rglob("*") if file.is_file()} == before
    assert cli.main(["eval", *files.arguments, *MODEL, "--output", str(output)]) == 0


def test_given_answers_are_refused_a_folder_in_use(tmp_path, capsys):
    files = write_benchmark("pope", tmp_path / "pope")
    answers, output = files.write_answers(tmp_path / "a.jsonl"), tmp_path / "out"
    command = ["eval", *files.arguments, "--answers", str(answers), "--output", str(output)]
    with locked(output):
        assert cli.main(command) == 2
    assert "Another run is writing into" in capsys.readouterr().err
    assert not (output / "report.json").exists()
    assert cli.main(command) == 0


def test_the_lock_is_held_while_a_model_is_asked(whole_run, tmp_path, monkeypatch, capsys):
    files, _ = whole_run
    output = tmp_path / "out"
    command = ["eval", *files.arguments, *MODEL, "--output", str(output)]
    ask, tried = greedy.GreedyModel.__call__, []

    def ask_and_try(model, questions):
        if not tried:
            tried.append(True)
            tried.append(cli.main(command))
        return ask(model, questions)

    monkeypatch.setattr(greedy.GreedyModel, "__call__", ask_and_try)
    assert cli.main(command) == 0
    assert tried == [True, 2] and "Another run is writing into" in capsys.readouterr().err


# The note


RUN = {"task": "gqa", "questions": "1", "model": {}, "settings": {"hd": None}, "versions": {}}


def test_a_note_says_what_the_answers_are_of(tmp_path):
    begin_note(tmp_path, RUN, {"a": "1"}, {}, [])
    note_dtype(tmp_path, "float32")
    assert noted_dtype(tmp_path) == "float32"
    with pytest.raises(ValueError, match="differs in its dtype"):
        note_dtype(tmp_path, "bfloat16")
    with pytest.raises(ValueError, match="differs in its settings"):
        begin_note(tmp_path, RUN | {"settings": {"hd": True}}, {"a": "1"}, {("1",): {}}, [])
    begin_note(tmp_path, RUN, {"a": "1", "b": "2"}, {("1",): {}}, [])  # an image that was missing is there now
    assert json.loads((tmp_path / "run.json").read_text()) == RUN | {
        "images": {"a": "1", "b": "2"},
        "dtype": "float32",
    }


def test_the_folder_has_no_other_files(whole_run):
    files, output = whole_run
    names = {"answers.jsonl", "outcomes.json", "report.json", "run.json", "run.lock", "submission"}
    assert {path.name for path in output.iterdir()} == names
    assert len(read_lines(output / "answers.jsonl")) == len(files.right)
