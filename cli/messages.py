# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What a command says on standard error: one line at a time, without the secrets of addresses."""

import logging
import sys

from flashsloth.arguments import without_secrets
from flashsloth.extras import PACKAGE


PROG = "flashsloth"


def show_messages(form: str = "%(message)s") -> None:
    """
    Writes what this package logs to standard error, and of libraries only their warnings: an HTTP client would report
    each request.
    """
    logging.basicConfig(format=form, stream=sys.stderr, level=logging.WARNING)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)


def log(message: str) -> None:
    """Writes a line to standard error, at once and without the secrets of addresses."""
    print(without_secrets(message), file=sys.stderr, flush=True)


def describe(error: Exception) -> str:
    """An error in one line; of one of the system, its file and its words without its number."""
    if isinstance(error, OSError) and error.strerror:
        text = f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
