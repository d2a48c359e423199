# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What libraries raise becomes one line that says what and what to do."""

import errno
import os

import pytest
import torch
from model_folders import error_of
from safetensors import SafetensorError
from tokenizers import Regex, normalizers

from flashsloth.folders.errors import config_errors, named_in_errors, one_line, reading_errors, weight_errors


def fail(context, error: Exception) -> None:
    with context:
        raise error


def test_one_line():
    assert one_line(RuntimeError("size mismatch:\n\t[2] and\n\t[3]")) == "size mismatch: [2] and [3]"


@pytest.mark.parametrize("error", [KeyError("depth"), TypeError("no number"), RuntimeError("a\nb"), OverflowError()])
def test_a_library_gives_up(error):
    assert "c.json does not describe a model that can be built" in error_of(fail, config_errors("c.json"), error)
    message = error_of(fail, weight_errors("folder"), error)
    assert message.startswith("The model folder cannot be loaded: ") and message.endswith("or save it again.")


def allocation_error() -> RuntimeError:
    """torch's, of a CPU."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    return error.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        allocation_error(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        SafetensorError("Cannot allocate memory (os error 12)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_no_fault_of_the_folder(error):
    with pytest.raises(MemoryError, match="The model folder does not fit into the memory") as found:
        fail(weight_errors("folder"), error)
    assert "ownload" not in str(found.value) and "smaller dtype" in str(found.value)


def test_our_own_errors_pass():
    for context in (config_errors("c.json"), weight_errors("folder")):
        assert error_of(fail, context, ValueError("both numbers")) == "both numbers"
    with pytest.raises(ConnectionError, match="lost"):
        fail(weight_errors("folder"), ConnectionError("lost"))


def test_a_missing_package():
    assert "The model folder needs a package that is not installed: torchao" in error_of(
        fail, weight_errors("folder"), ImportError("torchao")
    )


def test_a_tokenizer_that_panics():
    """Nothing else that is no `Exception` is taken for an error of the folder."""

    def normalize() -> None:
        with reading_errors("tokenizer", "folder"):
            normalizers.Replace(Regex("(([a-z ]+)+)+[0-9]{9}"), "").normalize_str("a" * 200)

    assert "The tokenizer in folder cannot be read: Onig: Regex search error" in error_of(normalize)
    for error in (KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(error):
            fail(reading_errors("tokenizer", "folder"), error())


def test_a_tokenizer():
    message = error_of(fail, reading_errors("tokenizer", "folder"), Exception())
    assert message == "The tokenizer in folder cannot be read: Exception"


def test_errors_while_a_file_is_written_name_it(tmp_path):
    for error, name in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), str(tmp_path)),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "other"), "other"),
        (OSError("of a library"), None),
    ):
        with pytest.raises(OSError) as caught:
            fail(named_in_errors(tmp_path), error)
        assert caught.value is error and error.filename == name
