# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Libraries that a command uses: one that is not installed is named with its remedy, and notices are kept back."""

import contextlib
import sys
import warnings
from collections.abc import Iterator


# Loggers of libraries whose notices are about kernels for other machines.
NOISY = ("torchao", "torch.utils._pytree", "bitsandbytes")


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps notices of libraries from between the words of an answer, and progress bars out of files and pipes."""
    from transformers.utils import logging as transformers_logging

    from flashsloth.folders.new_folder import quiet_transformers

    had_bars = transformers_logging.is_progress_bar_enabled()
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not sys.stderr.isatty():
            transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            if had_bars:
                transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def extra_packages(command: str, extra: str) -> Iterator[None]:
    """Names the remedy if a package is missing that only some commands need."""
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = f"install it with: pip install 'flashsloth[{extra}]'"
        raise ValueError(f"{command} needs {error.name}; {remedy}") from error
