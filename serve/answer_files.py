# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The folder of answers. While a run goes on, `answers.unfinished.jsonl` gets a line for each row as it is answered, in
any order, so that a run that was killed goes on where it was; `run.json` says what the answers are answers of. In the
end `answers.jsonl` or `answers.parquet` has all rows in their order, and `report.json` what they are.
"""

import json
import math
import os
from array import array
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path

import pyarrow

from flashsloth.folders.errors import named_in_errors, one_line
from flashsloth.folders.json_files import read_json, write_json
from flashsloth.serve.answer_table import write_parquet


FORMATS = ("jsonl", "parquet")
ANSWERS = "answers.{}"
REPORT = "report.json"
UNFINISHED = "answers.unfinished.jsonl"
RUN = "run.json"
ANOTHER = "name another folder with --output, or remove this one."
UNANSWERED = -1


@dataclass(frozen=True)
class Answered:
    """
    What became of a row.

    Args:
        index (`int`): The row's number, from 0.
        answer (`str`, *optional*): The answer.
        error (`str`, *optional*): Why there is none.
    """

    index: int
    answer: str | None
    error: str | None


class Journal:
    """
    The answers of a run as they come. In memory are the places of the answers in the file, eight bytes a row.

    Args:
        file (`Path`): The file; half a line at its end, which a kill may leave, is cut off.
        num_rows (`int`, *optional*): How many rows there are, where that is known.

    Raises:
        ValueError: If another line is damaged, or is about a row that does not exist.
    """

    def __init__(self, file: Path, num_rows: int | None = None):
        self._places = array("q")
        self._name = file
        self._file = file.open("a+b")
        self._end = 0
        self.num_answered = 0
        self.num_errors = 0
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                answered = Answered(**json.loads(line))
                _check_index(answered.index, num_rows)
                self._note(answered)
            except (ValueError, TypeError) as error:
                self._file.close()
                raise ValueError(f"{file}, line {number} is damaged ({one_line(error)}): {ANOTHER}") from error
            self._end += len(line)
        self._file.truncate(self._end)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with named_in_errors(self._name):
            self._file.close()  # which writes what an error has left

    def _note(self, answered: Answered) -> None:
        missing = answered.index + 1 - len(self._places)
        if missing > 0:
            self._places.extend([UNANSWERED] * missing)
        self.num_answered += self._places[answered.index] == UNANSWERED
        self.num_errors += answered.error is not None
        self._places[answered.index] = self._end

    def done(self) -> bytes:
        """For each of the first rows 1 if it is answered, else 0; all others are not."""
        return bytes(place != UNANSWERED for place in self._places)

    def append(self, batch: Sequence[Answered]) -> None:
        """Keeps answers, which are on the disk when this returns. A row that is there already stays as it is."""
        for answered in batch:
            if answered.index < len(self._places) and self._places[answered.index] != UNANSWERED:
                continue
            line = _encode(vars(answered))
            with named_in_errors(self._name):
                self._file.write(line)
            self._note(answered)
            self._end += len(line)
        with named_in_errors(self._name):
            self._file.flush()
            os.fsync(self._file.fileno())

    def read(self, index: int) -> Answered:
        """The answer to a row, which has to be there."""
        self._file.seek(self._places[index])
        return Answered(**json.loads(self._file.readline()))

    def errors(self) -> Iterator[Answered]:
        """The rows with an error, in their order."""
        answers = (self.read(index) for index, place in enumerate(self._places) if place != UNANSWERED)
        return (answered for answered in answers if answered.error is not None)


def _check_index(index, num_rows: int | None) -> None:
    if type(index) is not int or index < 0 or num_rows is not None and index >= num_rows:
        known = "" if num_rows is None else f" up to {num_rows - 1}"
        raise ValueError(f"its index is {index!r}, and must be a whole number from 0{known}")


def finished_report(folder: Path) -> dict | None:
    """The report of a folder, if its run is finished."""
    return read_json(folder / REPORT) if (folder / REPORT).is_file() else None


def check_run(folder: Path, run: dict) -> None:
    """
    Compares a run with the one whose answers a folder holds.

    Args:
        folder (`Path`): The folder, which may not exist yet.
        run (`dict`): What the answers depend on: model, questions and settings.

    Raises:
        ValueError: If they differ, or the folder holds answers of which nothing says what they are.
    """
    noted = next((read_json(folder / name) for name in (REPORT, RUN) if (folder / name).is_file()), None)
    if noted is None:
        files = [name for name in (UNFINISHED, *map(ANSWERS.format, FORMATS)) if (folder / name).exists()]
        if files:
            raise ValueError(f"{folder} holds {files[0]}, and nothing says of which run: {ANOTHER}")
        return
    for part, values in run.items():
        before = noted.get(part)
        before = before if isinstance(before, dict) else {}
        for name, value in values.items():
            if before.get(name) != value:
                was = f"{before.get(name)!r} there, {value!r} now"
                raise ValueError(f"{folder} holds answers of a run that differs in {part}, {name} ({was}): {ANOTHER}")


def begin(folder: Path, run: dict) -> None:
    """Notes what the answers of a folder will be answers of."""
    _write_whole(folder / RUN, lambda file: write_json(run, file))


def finish(
    folder: Path,
    rows: Iterable[dict],
    schema: pyarrow.Schema | None,
    file_format: str,
    report: dict,
    texts: Sequence[str] = (),
) -> Path:
    """
    Writes all rows in their order and the report, with the size of their file, and removes what the run has left.

    Args:
        folder (`Path`): The folder.
        rows (`Iterable[dict]`): The rows with their answers; they are gone through twice without a schema.
        schema (`pyarrow.Schema`, *optional*): Types of the columns; as the values are if unset.
        file_format (`str`): "jsonl" or "parquet".
        report (`dict`): The report.
        texts (`Sequence[str]`, *optional*): Columns of texts, also where no row has one.

    Returns:
        `Path`: The file of the answers.

    Raises:
        ValueError: If Parquet cannot hold a value; see [`~flashsloth.serve.answer_table.write_parquet`].
    """
    file = folder / ANSWERS.format(file_format)
    if file_format == "parquet":
        _write_whole(file, lambda unfinished: write_parquet(rows, schema, unfinished, texts))
    else:
        _write_whole(file, lambda unfinished: _write_json_lines(rows, unfinished))
    report = {**report, "bytes": file.stat().st_size}
    _write_whole(folder / REPORT, lambda unfinished: write_json(report, unfinished))
    remove_leftovers(folder)
    return file


def remove_leftovers(folder: Path) -> None:
    """Removes the files of a run that is finished, all but its results."""
    for name in (UNFINISHED, RUN):
        (folder / name).unlink(missing_ok=True)


def _write_whole(file: Path, write) -> None:
    """Writes a file, which is there whole or not at all."""
    unfinished = file.with_name(f"{file.name}.new")
    with named_in_errors(file):
        write(unfinished)
        with unfinished.open("rb+") as content:
            os.fsync(content.fileno())
        unfinished.replace(file)


def _write_json_lines(rows: Iterable[dict], file: Path) -> None:
    with file.open("wb") as lines:
        lines.writelines(map(_encode, rows))


def _encode(row: dict) -> bytes:
    """A line of JSON. Half a character, which is no UTF-8, is written as JSON's escape of it."""
    text = json.dumps(_plain(row), ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"


def _plain(value):
    """A value as JSON has it: bytes as base64, times in ISO 8601, a number that is none as null."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value.isoformat() if isinstance(value, (date, datetime, time)) else str(value)
