# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The files of a benchmark and of a run: text, JSON, and JSON lines. Whatever is wrong with one is a `ValueError` of one
line that names the file and, where it has lines, the line. A file that is written is there whole or not at all.
Nothing here needs torch.
"""

import io
import json
import math
import os
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from flashsloth.folders.errors import named_in_errors, one_line


MAX_DIGITS = 100  # of a number; ids have 20 at most
Kind = type | tuple[type, ...]
ID = (str, int)  # the kinds of a question's id
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 120  # characters
_short.maxlevel = 2
shown = _short.repr  # a value of a file as messages quote it: of any size and depth, in part of a line


class Pairs(list):
    """The pairs of an object that has a key twice, from [`read_json_file`]."""


NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
NAMES |= {dict: "an object", list: "a list", Pairs: "an object with a key twice"}

# Reading


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none. `Path.is_file` raises an error for some."""
    return os.path.isfile(path)


def check_is_file(file: Path) -> None:
    """Raises a `ValueError` unless there is such a file."""
    if not is_file(file):
        what = "a folder" if os.path.isdir(file) else "no file" if os.path.exists(file) else "not there"
        raise ValueError(f"{file} is {what}: name a file.")


def read_text(file: Path, whole_lines: bool = False) -> str:
    """
    The text of a file, with a line feed at the end of each line.

    Args:
        file (`Path`): The file.
        whole_lines (`bool`, *optional*, defaults to `False`): Whether to leave out what follows the last line feed:
            half a line, which another process may be writing.

    Raises:
        ValueError: If there is no such file, or if it is not text in UTF-8.
    """
    check_is_file(file)
    content = file.read_bytes()
    if whole_lines:
        content = content[: content.rfind(b"\n") + 1]
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}.") from error


def read_json_file(file: Path, may_repeat: bool = False):
    """
    The content of a JSON file.

    Args:
        file (`Path`): The file.
        may_repeat (`bool`, *optional*, defaults to `False`): Whether an object of objects may have a key twice. It
            becomes [`Pairs`] then.

    Raises:
        ValueError: If there is no such file, or if its content is not JSON or cannot be used; see [`parse`].
    """
    return parse(read_text(file), str(file), may_repeat)


def read_rows(
    file: Path,
    required: Mapping[str, Kind] | None = None,
    optional: Mapping[str, Kind] | None = None,
    whole_lines: bool = False,
) -> list[dict]:
    """
    The objects of a file of JSON lines.

    Args:
        file (`Path`): The file; empty lines are skipped.
        required (`dict[str, type]`, *optional*), optional (`dict[str, type]`, *optional*): The fields that each line
            must have or may have, and their kinds.
        whole_lines (`bool`, *optional*): See [`read_text`].

    Raises:
        ValueError: If there is no such file, or if a line is no JSON object or lacks a field.
    """
    rows = []
    for number, line in enumerate(read_text(file, whole_lines).split("\n"), 1):
        if line.strip():
            where = f"{file}, line {number}"
            rows.append(parse(line, where))
            check_fields(rows[-1], required or {}, where, optional)
    return rows


def parse(text: str, where: str, may_repeat: bool = False):
    """
    The value of a JSON text.

    Args:
        text (`str`): The text.
        where (`str`): What an error names it.
        may_repeat (`bool`, *optional*): See [`read_json_file`].

    Raises:
        ValueError: If it is not JSON, or holds what is no value for us: NaN, a number of thousands of digits, a key
            twice, half of a surrogate pair, or lists within lists within lists without end.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=partial(_object, may_repeat),
            parse_int=_whole_number,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
        if ESCAPED_SURROGATE.search(text):  # perhaps a half alone
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(f"{where} holds lists or objects that are nested too deeply.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {one_line(error)}.") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{where} holds {half!r}, half of a surrogate pair, which no text can hold.") from error
    except ValueError as error:  # of the functions above and below
        raise ValueError(f"{where} {error}.") from error
    return value


def _object(may_repeat: bool, pairs: list[tuple]) -> dict | Pairs:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    if may_repeat and all(isinstance(value, dict) for _, value in pairs):
        return Pairs(pairs)
    key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
    raise ValueError(f"holds the key {shown(key)} twice")


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"holds a number of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"holds the number {shown(text)[1:-1]}, which is too large")
    return number


def _refuse_constant(name: str):
    raise ValueError(f"is not JSON: it holds {name}")


def check_fields(row, required: Mapping[str, Kind], where: str, optional: Mapping[str, Kind] | None = None) -> None:
    """
    Raises a `ValueError` unless `row` is an object with all the required fields, and its fields are of their kinds.

    Args:
        row: The value.
        required (`dict[str, type]`): Names and kinds of fields that it must have; `object` is any.
        where (`str`): What an error names it.
        optional (`dict[str, type]`, *optional*): Names and kinds of fields that it may have.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where} is {NAMES[type(row)]}, not an object.")
    for name in required:
        if name not in row:
            raise ValueError(f"{where} has no {name!r}; it has {_names(row)}.")
    for name, kind in {**required, **(optional or {})}.items():
        if name in row and not _is(row[name], kind):
            kinds = " or ".join(NAMES[one] for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{where}: its {name!r} is {shown(row[name])}, not {kinds}.")


def _is(value, kind: Kind) -> bool:
    """Python counts true and false as whole numbers."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and not (isinstance(value, bool) and not {bool, object} & set(kinds))


def _names(row: dict) -> str:
    return shown(list(row))[1:-1] or "no fields"


# Writing


def write_rows(rows: Iterable[dict], file: Path) -> None:
    """Writes JSON lines; the file is there whole or not at all."""
    write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), file)


def write_json(value, file: Path) -> None:
    """Writes a JSON file for readers; it is there whole or not at all."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", file)


def write_text(text: str, file: Path) -> None:
    """Writes a text file, which is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.new")
    try:
        with named_in_errors(unfinished):
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
