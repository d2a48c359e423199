# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Answers survive a kill, files are there whole or not at all, and a folder holds the answers of one run."""

import datetime
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pyarrow
import pytest
from pyarrow import parquet

from flashsloth.serve import answer_files
from flashsloth.serve.answer_files import Answered, Journal, begin, check_run, finish


RUN = {"model": {"sha256": "1"}, "questions": {"digest": "2"}, "settings": {"hd": None}}
ANSWERS = [Answered(2, "Two é", None), Answered(0, None, "broken"), Answered(1, "One\n\ud800", None)]


def read_lines(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_answers_come_back_by_their_rows(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.append(ANSWERS[:2])
        assert list(journal.done()) == [1, 0, 1]
        journal.append(ANSWERS[2:])
    with Journal(tmp_path / "j") as journal:
        assert [journal.read(index) for index in range(3)] == sorted(ANSWERS, key=lambda answered: answered.index)
        assert (journal.num_answered, journal.num_errors) == (3, 1)
        assert list(journal.errors()) == [ANSWERS[1]]


@contextmanager
def no_room() -> Iterator[None]:
    """Files cannot grow, which the system says as it says that a disk is full: without the name of a file."""
    resource = pytest.importorskip("resource", reason="the system does not limit the sizes of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError) as caught, Journal(tmp_path / "j") as journal, no_room():
        journal.append(ANSWERS)
    assert caught.value.filename == str(tmp_path / "j")
    for file_format in answer_files.FORMATS:
        rows = [{"question": "a" * 100, "answer": os.urandom(5000).hex()}]
        with pytest.raises(OSError) as caught, no_room():
            finish(tmp_path, rows, None, file_format, {})
        assert caught.value.filename == str(tmp_path / f"answers.{file_format}")


def test_half_a_line_is_cut_off_wherever_it_ends(tmp_path):
    file = tmp_path / "j"
    with Journal(file) as journal:
        journal.append(ANSWERS)
    content = file.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last, len(content)):
        file.write_bytes(content[:end])
        with Journal(file) as journal:
            assert list(journal.done()) == [1, 0, 1]
            journal.append(ANSWERS[2:])
        assert file.read_bytes() == content


def test_a_row_that_is_answered_stays_as_it_is(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.append([Answered(0, "first", None)])
        journal.append([Answered(0, "second", None), Answered(1, "other", None)])
        assert journal.read(0).answer == "first" and journal.num_answered == 2
    assert len(read_lines(tmp_path / "j")) == 2


@pytest.mark.parametrize("line", ["{", "[]", '{"index": 1}', '{"index": "x", "answer": "", "error": null}'])
def test_a_damaged_line_is_named(line, tmp_path):
    (tmp_path / "j").write_text(f'{{"index": 0, "answer": "", "error": null}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="j, line 2 is damaged"):
        Journal(tmp_path / "j")


@pytest.mark.parametrize(("index", "num_rows"), [(-1, None), (-1, 5), (5, 5), (1.5, 5), (True, 5), ("1", 5)])
def test_a_line_about_no_row_is_named(index, num_rows, tmp_path):
    (tmp_path / "j").write_text(json.dumps({"index": index, "answer": "", "error": None}) + "\n", encoding="utf-8")
    message = f"j, line 1 is damaged .its index is {index!r}, and must be a whole number from 0"
    with pytest.raises(ValueError, match=message) as error:
        Journal(tmp_path / "j", num_rows)
    assert len(str(error.value).splitlines()) == 1


def test_another_run_is_refused(tmp_path):
    check_run(tmp_path / "new", RUN)
    begin(tmp_path, RUN)
    check_run(tmp_path, RUN)
    with pytest.raises(ValueError, match=r"differs in settings, hd \(None there, True now\): name another folder"):
        check_run(tmp_path, RUN | {"settings": {"hd": True}})
    finish(tmp_path, [], None, "jsonl", RUN | {"counts": {}})
    check_run(tmp_path, RUN)
    with pytest.raises(ValueError, match="differs in model, sha256"):
        check_run(tmp_path, RUN | {"model": {"sha256": "3"}})


def test_answers_of_nobody_knows_what_are_refused(tmp_path):
    (tmp_path / "answers.parquet").touch()
    with pytest.raises(ValueError, match="holds answers.parquet, and nothing says of which run"):
        check_run(tmp_path, RUN)


def test_the_end_leaves_answers_and_report(tmp_path):
    begin(tmp_path, RUN)
    with Journal(tmp_path / answer_files.UNFINISHED) as journal:
        journal.append(ANSWERS)
    rows = [{"question": "é\ud800", "answer": "a"}]
    assert finish(tmp_path, rows, None, "jsonl", RUN) == tmp_path / "answers.jsonl"
    assert {file.name for file in tmp_path.iterdir()} == {"answers.jsonl", "report.json"}
    assert read_lines(tmp_path / "answers.jsonl") == rows
    size = (tmp_path / "answers.jsonl").stat().st_size
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == RUN | {"bytes": size}


def test_json_lines_hold_values_of_all_types(tmp_path):
    day = datetime.datetime(2026, 1, 2, 3, 4, 5)
    row = {"b": b"\xff", "d": day, "n": float("nan"), "c": Decimal("1.50"), "l": [{"x": (1, 2.5, True)}]}
    finish(tmp_path, [row], None, "jsonl", {})
    expected = {"b": "/w==", "d": "2026-01-02T03:04:05", "n": None, "c": "1.50", "l": [{"x": [1, 2.5, True]}]}
    assert read_lines(tmp_path / "answers.jsonl") == [expected]


def test_parquet_keeps_the_types_of_the_source(tmp_path):
    schema = pyarrow.schema({"day": pyarrow.date32(), "n": pyarrow.int8(), "answer": pyarrow.string()})
    rows = [{"day": datetime.date(2026, 1, n % 28 + 1), "n": n % 100, "answer": str(n)} for n in range(3000)]
    finish(tmp_path, rows, schema, "parquet", {})
    table = parquet.read_table(tmp_path / "answers.parquet")
    assert table.schema == schema and table.to_pylist() == rows


def test_parquet_of_json_lines_has_the_types_of_all_rows(tmp_path):
    rows = [{"n": 1}] * 1500 + [{"n": 1.5, "late": [{"x": "y"}]}] + [{"n": None}]
    finish(tmp_path, rows, None, "parquet", {})
    table = parquet.read_table(tmp_path / "answers.parquet").to_pylist()
    assert table == [{"n": row["n"], "late": row.get("late")} for row in rows]


def test_values_that_parquet_cannot_hold_leave_the_answers_where_they_are(tmp_path):
    begin(tmp_path, RUN)
    with pytest.raises(ValueError, match="column 'n', row 2 .*--format jsonl"):
        finish(tmp_path, [{"n": value} for value in (1, "a")], None, "parquet", {})
    check_run(tmp_path, RUN)
    assert not (tmp_path / "answers.parquet").exists() and not (tmp_path / "report.json").exists()
