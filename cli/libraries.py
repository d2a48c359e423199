# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Libraries that a command uses: one that is not installed is named with its remedy, and notices are kept back."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from flashsloth.extras import PACKAGE, TORCH, extra_command, has_torch, missing_requirements, package_command


# Loggers of libraries whose notices are about kernels for other machines.
NOISY = ("torchao", "torch.utils._pytree", "bitsandbytes")
# transformers warns of an environment without torch when it is imported; the commands say it where it matters.
NO_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


def quiet_imports() -> None:
    """Keeps back what libraries say while they are imported."""
    for name in NOISY:  # transformers imports them if they are installed
        logging.getLogger(name).setLevel(logging.ERROR)
    if not has_torch():
        os.environ.setdefault(NO_ADVICE, "1")


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
def extra_packages(command: str, extra: str, needs_torch: bool = True) -> Iterator[None]:
    """
    Names the remedy if a package is missing that only some commands need.

    Args:
        command (`str`): For the message.
        extra (`str`): The extra that has the packages.
        needs_torch (`bool`, *optional*, defaults to `True`): Whether the command computes with torch, whatever its
            options. If not, the remedy brings no torch to a machine without it.

    Raises:
        ValueError: If a package is missing.
    """
    if needs_torch and not has_torch():
        raise ValueError(_message(command, TORCH, extra_command(extra)))
    try:
        yield
    except ModuleNotFoundError as error:
        if is_own(error):
            raise
        package = _package_of(error)
        raise ValueError(_message(command, package, extra_command(extra, needs_torch or package == TORCH))) from error


def missing_package(command: str, error: Exception) -> ValueError | None:
    """
    What to say of an error that comes of a package that is not installed.

    Args:
        command (`str`): For the message, such as "convert".
        error (`Exception`): Any error that nothing else explains.

    Returns:
        `ValueError`, or `None` if it is a fault of the program.
    """
    if isinstance(error, ImportError) and not is_own(error):
        package = _package_of(error)
        if isinstance(error, ModuleNotFoundError) and package.isidentifier():
            return ValueError(_message(command, package, package_command(package)))
        return ValueError(f"{command} needs a package that cannot be imported: {error}")  # its library names it
    for name in missing_requirements():  # without it a library may fail in any way
        return ValueError(_message(command, name, package_command(name)))
    return None


def is_own(error: ImportError) -> bool:
    """Whether an import within this package fails, which is a fault of the program."""
    return _package_of(error) == PACKAGE


def _package_of(error: ImportError) -> str:
    return (error.name or "").partition(".")[0]


def _message(command: str, package: str, remedy: str) -> str:
    return f"{command} needs {package}; install it with: {remedy}"
