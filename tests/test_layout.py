# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Tests mirror the packages: `train/data/rows.py` is tested by `tests/train/data/test_rows.py`."""

from pathlib import Path

import flashsloth


ROOT = Path(flashsloth.__file__).parent
NO_PART_OF_IT = {"build", "examples", "tests"}
# An `__init__.py` names what the modules of its package have, and `__main__.py` is a command, which is tested as one.
WITHOUT_A_FILE = {"__init__.py"}
OTHER_NAMES = {"__main__.py": "main.py"}


def untested(root: Path) -> list[str]:
    """The modules in the packages of a folder that have no test file of their name, as paths in it."""
    packages = (file.parent for file in root.glob("*/__init__.py") if file.parent.name not in NO_PART_OF_IT)
    modules = (file.relative_to(root) for package in packages for file in package.rglob("*.py"))
    return sorted(
        module.as_posix()
        for module in modules
        if module.name not in WITHOUT_A_FILE
        and not (root / "tests" / module.parent / f"test_{OTHER_NAMES.get(module.name, module.name)}").is_file()
    )


def test_every_module_has_a_test_file_of_its_name():
    assert untested(ROOT) == []


def test_a_module_without_a_test_file_is_found(tmp_path):
    for file in (
        "tiny/__init__.py",
        "tiny/__main__.py",
        "train/__init__.py",
        "train/data/rows.py",
        "train/data/new.py",
        "tests/__init__.py",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "tests" / "train" / "data").mkdir(parents=True)
    (tmp_path / "tests" / "train" / "test_new.py").touch()  # in another folder
    (tmp_path / "tests" / "train" / "data" / "test_rows.py").touch()
    assert untested(tmp_path) == ["tiny/__main__.py", "train/data/new.py"]
