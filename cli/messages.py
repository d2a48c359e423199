# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What a command says on standard error: one line at a time, without the secrets of addresses."""

import logging
import sys

from flashsloth.arguments import without_secrets
from flashsloth.extras import PACKAGE


PROG = "flashsloth"


def log(message: str) -> None:
    """Writes a line to standard error, at once and without the secrets of addresses."""
    print(without_secrets(message), file=sys.stderr, flush=True)


def show_messages(of_others: int = logging.WARNING, form: str = "%(message)s") -> None:
    """
    Writes messages of this package to standard error, without their level.

    Args:
        of_others (`int`, *optional*, defaults to `logging.WARNING`): The least level of other packages' messages: the
            HTTP client would report each request.
        form (`str`, *optional*, defaults to `"%(message)s"`): Of a message, as `logging` takes it.
    """
    logging.basicConfig(format=form, stream=sys.stderr, level=of_others)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)


def describe(error: Exception) -> str:
    """An error in one line; of one of the system, its file and its words without its number."""
    if isinstance(error, OSError) and error.strerror:
        text = f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
