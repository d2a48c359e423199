# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Warnings of libraries about each other, which a user can do nothing about."""

import contextlib
import warnings
from collections.abc import Iterator


WARNINGS = (
    # PEFT 0.21 reads a name that transformers 5.24 has renamed.
    ("`is_gradient_checkpointing` is deprecated", FutureWarning),
    # torch, of more workers than processors; they decode images and wait for disks.
    ("This DataLoader will create", UserWarning),
)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leaves out the warnings above, and no other."""
    with warnings.catch_warnings():
        for message, category in WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        yield
