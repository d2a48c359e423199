# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Git LFS (https://git-lfs.com): a clone without it holds small text files in the place of the large ones."""

from pathlib import Path


POINTER = b"version https://git-lfs.github.com/spec/v1"
MAX_POINTER_BYTES = 1024  # of the format


def check_is_fetched(folder: Path) -> None:
    """
    Raises:
        ValueError: If a file of the folder is a pointer of Git LFS.
    """
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size <= MAX_POINTER_BYTES and file.read_bytes().startswith(POINTER):
            raise ValueError(f"{file} is a pointer of Git LFS, not the file itself. Fetch the files: git lfs pull")
