# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Checkpoint folders `OUTPUT_DIR/checkpoint-STEP`. The last file written into one is `complete.json`, which lists all
others with their sizes: a folder without it, or that does not hold what it lists, is what a kill, a power cut or a
full disk left behind.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


logger = logging.getLogger(__name__)

MARKER = "complete.json"
PREFIX = "checkpoint-"


@contextmanager
def clear_write_errors(folder: Path) -> Iterator[None]:
    """
    Turns what the writers of safetensors, torch and others raise into one kind of error, which says what to do.

    Args:
        folder (`Path`): What is being written: a folder beside the checkpoints.

    Raises:
        OSError: If a file cannot be written, because the disk is full or for another reason.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and "inline_container" not in str(error):  # the file writer of torch.save
            raise
        last = last_complete_checkpoint(folder.parent)
        rest = f"The last complete checkpoint is {last}" if last else "There is no complete checkpoint yet"
        raise OSError(
            f"cannot write {folder}: {error}. {rest}: make room, and start the same command again to go on"
        ) from error


def mark_complete(folder: Path) -> None:
    """Brings all files of a checkpoint to the disk, then writes its marker."""
    sizes = _sizes(folder)
    for name in sizes:
        _sync(folder / name)
    unfinished = folder / f"{MARKER}.new"
    unfinished.write_text(json.dumps(sizes, indent=1))
    _sync(unfinished)
    unfinished.rename(folder / MARKER)


def what_is_missing(folder: Path) -> str | None:
    """Why a checkpoint is incomplete, in words; `None` if it is complete."""
    try:
        expected = json.loads((folder / MARKER).read_text())
    except FileNotFoundError:
        return f"it has no {MARKER}"
    sizes = _sizes(folder)
    for name, size in expected.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]:,} bytes instead of {size:,}"
    return None


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint of the highest step, or `None`. Incomplete ones are passed over with a warning."""
    for folder in reversed(checkpoints(output_dir)):
        missing = what_is_missing(folder)
        if missing is None:
            return folder
        logger.warning("Passing over %s, which is incomplete: %s", folder, missing)
    return None


def checkpoints(output_dir: str | Path) -> list[Path]:
    """All checkpoint folders, complete or not, by step."""
    folders = [folder for folder in Path(output_dir).glob(f"{PREFIX}*") if folder.is_dir()]
    return sorted((folder for folder in folders if _step(folder).isdecimal()), key=lambda folder: int(_step(folder)))


def rotate(output_dir: str | Path, limit: int | None, keep: str | Path | None = None) -> None:
    """
    Removes all but the last `limit` complete checkpoints, and every incomplete one.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoints.
        limit (`int`, *optional*): Nothing is removed without one.
        keep (`str` or `Path`, *optional*): A checkpoint that stays, such as the best one.
    """
    if not limit:
        return
    complete = [folder for folder in checkpoints(output_dir) if what_is_missing(folder) is None]
    kept = complete[-limit:] + ([Path(keep)] if keep else [])
    for folder in checkpoints(output_dir):
        if folder not in kept:
            remove(folder)


def remove(folder: Path) -> None:
    """Removes a checkpoint, its marker first: what is left after a kill in the middle is known to be incomplete."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _step(folder: Path) -> str:
    return folder.name.removeprefix(PREFIX)


def _sizes(folder: Path) -> dict[str, int]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / MARKER]
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
