# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""JSON files of model folders: read with errors that name the file, written as `save_pretrained` writes them."""

import json
import math
from pathlib import Path

from flashsloth.folders.errors import one_line


MAX_JSON_BYTES = 100_000_000  # the largest real configs and indices have a few million


def read_json(file: Path) -> dict:
    """A JSON file that holds an object, or a `ValueError` that names the file."""
    return _read(file, dict, "object")


def read_settings(file: Path) -> dict:
    """As [`read_json`], for settings of a model, none of which may be NaN or infinite."""
    return _read(file, dict, "object", parse_constant=_finite, parse_float=_finite)


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
