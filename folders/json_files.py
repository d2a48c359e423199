# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""JSON files of model folders: read with errors that name the file, written as `save_pretrained` writes them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from flashsloth.folders.errors import one_line


MAX_JSON_BYTES = 100_000_000  # the largest real configs and indices have a few million


def read_json(file: Path) -> dict:
    """A JSON file that holds an object, or a `ValueError` that names the file."""
    return _read(file, dict, "object")


def read_settings(file: Path) -> dict:
    """As [`read_json`], for settings of a model: no number is NaN or infinite, and an `auto_map` is an object."""
    fields = _read(file, dict, "object", parse_constant=_finite, parse_float=_finite)
    for part in objects_in(fields):
        if not isinstance(part.get("auto_map", {}), dict):
            raise ValueError(f"{file} has auto_map {str(part['auto_map'])[:80]!r}, which is no object. Remove it.")
    return fields


def objects_in(value) -> Iterator[dict]:
    """All objects of a JSON value, at any depth."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_in(item)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def read_json_list(file: Path) -> list[dict]:
    """A JSON file that holds an array of objects, or a `ValueError` that names the file."""
    content = _read(file, list, "array of objects")
    if not all(isinstance(item, dict) for item in content):
        raise ValueError(f"{file} must hold a JSON array of objects.")
    return content


def _read(file: Path, kind: type, name: str, **hooks):
    if not file.is_file():
        raise ValueError(f"{file} does not exist.")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, too many for a JSON {name} of a model.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"), **hooks)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of too many digits, or too deep
        raise ValueError(f"{file} is not valid JSON: {one_line(error)}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{file} must hold a JSON {name}, but holds {type(content).__name__}.")
    return content


def write_json(content: dict, file: Path) -> None:
    """Writes JSON as `save_pretrained` does."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
