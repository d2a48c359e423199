# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A folder that is written whole or not at all."""

import errno
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging


FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or a user's share of it
UNFINISHED_NAME = re.compile(r"\.incomplete-[0-9a-f]{8}$")


@contextmanager
def new_folder(dst) -> Iterator[Path]:
    """
    Yields a temporary sibling of `dst` to write into, which becomes `dst` when the block ends well. After an exception
    it is removed; after a kill it stays behind as `DST.incomplete-XXXX`. `dst` itself is complete or not there.

    Args:
        dst (`str` or `os.PathLike`): a folder that does not exist yet, or is empty.

    Raises:
        ValueError: If `dst` holds something already, or is no folder.
    """
    dst = Path(dst).absolute()
    if dst.exists() and not dst.is_dir():
        raise ValueError(f"{dst} is a file. Name a folder that does not exist yet.")
    if dst.is_dir() and any(dst.iterdir()):
        raise ValueError(f"{dst} is not empty. Remove it, or name a folder that does not exist yet.")
    dst.parent.mkdir(parents=True, exist_ok=True)
    unfinished = dst.with_name(f"{dst.name}.incomplete-{secrets.token_hex(4)}")
    with _errors_about(dst, unfinished):
        unfinished.mkdir()
        try:
            yield unfinished
            if dst.exists():
                dst.rmdir()  # empty; Windows cannot rename onto it
            unfinished.rename(dst)
        except BaseException:
            shutil.rmtree(unfinished)
            raise


@contextmanager
def _errors_about(dst: Path, unfinished: Path) -> Iterator[None]:
    """Makes errors about the temporary folder, and of a full disk, name the folder that the user named."""
    try:
        yield
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        is_full = not names and error.errno in FULL
        if is_full or any(name.startswith(str(unfinished)) for name in names):
            error.filename, error.filename2 = str(dst), None  # a copy names the file that it reads first
        raise


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps what transformers reports of each saved file off the terminal."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
