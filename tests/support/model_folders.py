# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Changes to model folders on disk, and what a hostile one holds."""

import json
import shutil
from pathlib import Path

import pytest


DEEP = 100_000  # levels of nesting


class Hostile:
    """What an attacker puts into a pickle: a call, here one that makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def error_of(function, *args, **kwargs) -> str:
    """The message of the `ValueError` that a call must end with: one line."""
    with pytest.raises(ValueError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def read_json(file: Path) -> dict:
    """The content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def set_config(folder: Path, **changes) -> None:
    """Overwrites values in a model folder's config."""
    content = {**read_json(folder / "config.json"), **changes}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def with_config(source: Path, folder: Path, **changes) -> Path:
    """A copy of a model folder with other values in its config."""
    shutil.copytree(source, folder)
    set_config(folder, **changes)
    return folder
