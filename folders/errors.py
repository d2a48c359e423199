# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Errors of model folders. A folder may hold anything, and where it breaks a library is not foreseeable: whatever is
raised then becomes one `ValueError` here, which says in one line what is wrong and what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


# What libraries raise for a config whose sizes are text, negative, or too large for a tensor.
UNFORESEEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)


# How libraries say that memory is too little, where they have no class of errors for it.
OUT_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory", "bad allocation", "bad_alloc")


def one_line(error: BaseException) -> str:
    """A library's error message without line breaks, to be quoted in one of ours."""
    return " ".join(str(error).split())


@contextmanager
def config_errors(where) -> Iterator[None]:
    """
    Errors of a config, while something is built from it. A `ValueError` passes as it is.

    Args:
        where: what the message names: the config's file, or what was put together.
    """
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(f"{where} is contradictory: {one_line(error.__cause__ or error)}") from error
    except UNFORESEEN as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{where} does not describe a model that can be built ({reason}).") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever library, is one of too little memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


@contextmanager
def weight_errors(folder) -> Iterator[None]:
    """
    Errors of weights, while a model is loaded: files that are missing or cut short, and shapes that its config does
    not have. A `ValueError` passes as it is, and so does a lost connection.

    Raises:
        MemoryError: If the memory of the machine or the GPU is too little for them.
    """
    try:
        yield
    except ConnectionError:
        raise
    except ImportError as error:  # quantized weights need the library that made them
        raise ValueError(f"The model {folder} needs a package that is not installed: {one_line(error)}") from error
    except (OSError, SafetensorError, MemoryError, *UNFORESEEN) as error:
        reason = one_line(error).rstrip(".")
        if is_out_of_memory(error):
            raise MemoryError(
                f"The model {folder} does not fit into the memory ({reason or 'no details'}): take a smaller dtype "
                "such as bfloat16, quantized weights, or a machine with more memory."
            ) from error
        raise ValueError(
            f"The model {folder} cannot be loaded: {reason}. Download it again, or save it again."
        ) from error


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of a library in Rust. pyo3 derives it from `BaseException`, and exports no name."""
    return type(error).__name__ == "PanicException"


@contextmanager
def reading_errors(part: str, folder) -> Iterator[None]:
    """Errors of the "tokenizer" or the "processor" of a folder, while it is loaded."""
    try:
        yield
    except BaseException as error:  # the tokenizers library raises plain ones, and panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = one_line(error) or type(error).__name__
        raise ValueError(f"The {part} in {folder} cannot be read: {reason}") from error


@contextmanager
def named_in_errors(file: Path) -> Iterator[None]:
    """Errors of the system, while a file is written, name the file: a full disk does not say which it is."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(file)
        raise
