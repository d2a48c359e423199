# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The lock of an output folder, which takes one run at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub.utils import WeakFileLock


LOCK = "run.lock"  # stays there; the lock is the system's, and ends with the process
LOCK_WAIT = 1  # seconds


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """
    Makes the folder of a run, and keeps other runs out of it. The system ends the lock, also after a kill.

    Raises:
        ValueError: If another run has it, or it is a file.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: name a folder with --output.")
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(output / LOCK, timeout=LOCK_WAIT))
        except TimeoutError as error:
            raise ValueError(
                f"Another run is writing into {output}: wait until it has ended, or name another folder with "
                f"--output. If there is none, remove {output / LOCK}."
            ) from error
        yield
