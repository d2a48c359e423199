# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Libraries that a command uses: one that is not installed is named with its remedy, and notices are kept back."""

import contextlib
import sys
import warnings
from collections.abc import Iterator


# Loggers of libraries whose notices are about kernels for other machines.
NOISY = ("torchao", "torch.utils._pytree", "bitsandbytes")
DISTRIBUTION = "flashsloth"
# Extras of commands that run exported models, for which torch is not needed.
WITHOUT_TORCH = ("serve", "cluster")
NEEDED_WITH = {"torch": "torch accelerate"}  # what an environment for exported models lacks


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
        raise ValueError(f"{command} needs {error.name}; install it with: {_installation(extra)}") from error


def _installation(extra: str) -> str:
    """The command that installs an extra. Where torch is left out on purpose, it leaves out torch."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from transformers.utils import is_torch_available

    if extra not in WITHOUT_TORCH or is_torch_available():
        return f"pip install '{DISTRIBUTION}[{extra}]'"
    chosen = []
    for requirement in map(Requirement, requires(DISTRIBUTION)):
        if requirement.marker and requirement.marker.evaluate({"extra": extra}):
            requirement.marker = None
            chosen.append(f"'{requirement}'")
    return f"pip install {' '.join(sorted(chosen))}"


def missing_package(error: ModuleNotFoundError) -> str | None:
    """What to do about a package that is missing; `None` if the module is this package's own."""
    package = (error.name or DISTRIBUTION).partition(".")[0]
    if package == DISTRIBUTION:
        return None
    names = NEEDED_WITH.get(package, package)
    return f"{package} is needed, and not installed; install it with: pip install {names}"
