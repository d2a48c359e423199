# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Whatever happens to a file that an evaluation reads, it is read as before or refused in one line with exit status 2:
each value of it is taken out or replaced by one of another type or size, and the file is cut, emptied and overwritten.
"""

import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmark_files import TASKS, write_benchmark

from flashsloth import cli, loading
from flashsloth.cli import parser
from flashsloth.eval import greedy, report
from flashsloth.eval import run as evaluation
from flashsloth.folders import digest
from flashsloth.loading import SHIPPED_CHECKPOINT


DEEP, LONG = 990, "x" * 3000
MAX_LENGTH = 1500  # of an error in characters, with the paths of temporary folders
# What a value may become, as JSON; None takes it out.
FEW = (None, "null", "5", '"x"', "[]", "{}", "NaN")
ALL = (*FEW, "true", "1.5", "9" * 5000, '""', '"\\u0000"', '"\\ud800"', '{"a": 1, "a": 2}', f'"{LONG}"')
ALL += ("[" * DEEP + "]" * DEEP,)
CELLS = ("", "-1", "9" * 5000, LONG, '"', "\0", "nan")  # of a table
# What a whole file may become.
CONTENTS = [b"", b"\n", b"\0" * 100, b"\xff\xfe{}", b"\xef\xbb\xbf", b"[" * 100_000, b"null", b"5\n", b"[]", b"{}"]
CONTENTS += [
    b'"',
    b"[1, 2]\n[3]\n",
    b'{"a": 1}\n{"a": 2}\n',
    b"a\tb\n1\t2\n",
    b'[{"a": null}]',
    b"\x89PNG\r\n\x1a\n\0",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without what takes time and has nothing to do with the files."""
    monkeypatch.setattr(report, "SAMPLES", 3)
    monkeypatch.setattr(report, "versions", lambda has_model: {"flashsloth": "1"})
    monkeypatch.setattr(evaluation, "versions", lambda has_model: {"flashsloth": "1"})
    monkeypatch.setattr(digest, "MODEL_FILES", ("config.json",))
    monkeypatch.setattr(parser, "build_parser", functools.cache(parser.build_parser))


def places(value, path: tuple = ()) -> list[tuple]:
    """The paths of the values within a JSON value; of values that are alike, of the first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = list(inner)
    if isinstance(value, list) or all(isinstance(item, dict) for _, item in inner):
        inner = inner[:1]
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def replaced(value, path: tuple, text: str | None) -> str:
    """The JSON text of a value in which the one at a path is another text, or is taken out."""
    if not path:
        return text or ""
    if isinstance(value, dict):
        parts = {
            json.dumps(key): replaced(item, path[1:], text) if key == path[0] else json.dumps(item)
            for key, item in value.items()
            if not (path == (key,) and text is None)
        }
        return "{" + ", ".join(f"{key}: {item}" for key, item in parts.items()) + "}"
    items = [
        replaced(item, path[1:], text) if number == path[0] else json.dumps(item)
        for number, item in enumerate(value)
        if not (path == (number,) and text is None)
    ]
    return "[" + ", ".join(items) + "]"


def damaged_json(content: bytes, values: tuple) -> list[bytes]:
    """All texts in which one value of the document, or of its first line, is another one."""
    is_lines = content.startswith(b"{") and b"\n{" in content
    first, newline, rest = content.partition(b"\n") if is_lines else (content, b"", b"")
    value = json.loads(first)
    return [replaced(value, path, text).encode() + newline + rest for path in places(value) for text in values]


def damaged_table(content: bytes) -> list[bytes]:
    """All tables in which one cell of the first row is another one."""
    header, first, rest = content.split(b"\n", 2)
    cells = first.split(b"\t")
    rows = [[*cells[:place], cell.encode(), *cells[place + 1 :]] for place in range(len(cells)) for cell in CELLS]
    return [b"\n".join([header, b"\t".join(row), rest]) for row in rows]


def damaged(file: Path, values: tuple = ALL) -> list[bytes]:
    """What may become of a file."""
    content = file.read_bytes()
    middle = len(content) // 2
    whole = [
        content[:middle],
        content[:-3],
        content + b"x",
        content * 2,
        content * 2 + b"{",
        content.replace(b'"', b"'"),
    ]
    whole += [content[:middle] + b"\0\xff" + content[middle:], *CONTENTS]
    if file.suffix in (".json", ".jsonl"):
        return [*whole, *damaged_json(content, values)]
    return [*whole, *(damaged_table(content) if file.suffix == ".tsv" else [])]


def check(arguments: list[str], capsys, where: str) -> None:
    status = cli.main(arguments)
    captured = capsys.readouterr()
    if status == 0:
        return
    lines = captured.err.splitlines()
    errors = [line for line in lines if line.startswith("flashsloth eval: error: ")]
    assert (status, len(errors), captured.out) == (2, 1, "") and lines[-1] == errors[0], (
        f"{where}: {captured.err[-900:]}"
    )
    assert len(errors[0]) < MAX_LENGTH, f"{where}: {errors[0]}"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("what", ["questions", "labels", "answers"])
def test_files_of_a_benchmark(task, what, tmp_path, capsys):
    files = write_benchmark(task, tmp_path / task)
    answers = files.write_answers(tmp_path / "answers.jsonl")
    file = {"questions": files.questions, "labels": files.labels or files.questions, "answers": answers}[what]
    if file.is_dir():
        file = min(found for found in file.rglob("*") if found.suffix in (".txt", ".json"))
    arguments = ["eval", *files.arguments, "--answers", str(answers), "--output", str(tmp_path / "out")]
    for content in damaged(file):
        file.write_bytes(content)
        check(arguments, capsys, f"{file.name} {content[:300]}")


class Model:
    """In the place of the model: answers at once."""

    def __init__(self, *arguments):
        pass

    def __call__(self, questions):
        return ["yes" for _ in questions]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch) -> tuple[Path, Path, list[str]]:
    """The folder of a run that has ended, that of its model, and the arguments of the command."""
    monkeypatch.setattr(loading, "load_model_and_processor", lambda *_: (SimpleNamespace(dtype="torch.float32"), None))
    monkeypatch.setattr(greedy, "GreedyModel", Model)
    files, model = write_benchmark("gqa", tmp_path / "gqa"), tmp_path / "model"
    shutil.copytree(SHIPPED_CHECKPOINT, model)
    arguments = ["eval", *files.arguments, "--model", str(model), "--output", str(tmp_path / "out"), "--write"]
    assert cli.main(arguments) == 0
    capsys.readouterr()
    return tmp_path / "out", model, arguments


@pytest.mark.parametrize("name", ["run.json", "answers.jsonl", "answers.part-0.jsonl", "evaluation.json"])
def test_files_of_a_run(run, name, capsys):
    output, model, arguments = run
    file = (model if name == "evaluation.json" else output) / name
    sound = {
        kept: kept.read_bytes() for kept in (output / "run.json", output / "answers.jsonl", model / "evaluation.json")
    }
    if name == "answers.part-0.jsonl":
        (output / "answers.jsonl").rename(file)
    for content in damaged(file, FEW):
        for other, before in sound.items():
            other.write_bytes(before)
        file.write_bytes(content)
        check(arguments, capsys, f"{name} {content[:300]}")


@pytest.mark.parametrize("name", ["report.json", "outcomes.json"])
def test_files_to_compare(run, name, tmp_path, capsys):
    output, _, _ = run
    other = shutil.copytree(output, tmp_path / "other")
    for content in damaged(output / name, FEW):
        (other / name).write_bytes(content)
        check(["eval", "--compare", str(output), str(other)], capsys, f"{name} {content[:300]}")
