# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Headers of safetensors files that lie, each one clear error."""

import json
import struct
from pathlib import Path

import pytest
from model_folders import DEEP, error_of

from flashsloth.folders.tensors import Checkpoint


def tensor(shape=(4,), offsets=(0, 16), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write_header(folder: Path, header, length: int | None = None) -> None:
    """A safetensors file of 64 bytes of data behind any header, whose length may be a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"lies": tensor((100,), (0, 64))}, r"lies of shape \[100\] and dtype F32 takes 400 bytes, not 64"),
        ({"a": tensor(), "lies": tensor((14,), (8, 64))}, "lies begins at byte 8 .* the one before it ends at 16"),
        ({"a": tensor(), "lies": tensor((8,), (32, 64))}, "lies begins at byte 32 .* the one before it ends at 16"),
        ({"lies": tensor((100,), (0, 400))}, "lies ends at byte 400 of the data, which has 64"),
        ({"lies": tensor()}, "its tensors end at byte 16 of the data, which has more"),
        ({"lies": tensor((20,), (-16, 64))}, "lies has shape"),
        ({"lies": tensor((-4,), (0, 64))}, "lies has shape"),
        ({"lies": tensor((4.5,), (0, 64))}, "lies has shape"),
        ({"lies": tensor((16,), (64, 0))}, "lies of shape"),
        ({"lies": tensor((10**18,), (0, 64))}, "lies of shape .* takes 4000000000000000000 bytes, not 64"),
        ({"lies": tensor((10**18,), (0, 4 * 10**18))}, "lies ends at byte 4000000000000000000"),
        ({"lies": tensor((2**63, 2**63), (0, 64))}, "lies of shape"),
        ({"lies": tensor((1,) * 1000, (0, 4))}, "lies has shape"),
        ({"lies": tensor((16,), (0, 64), dtype="F99")}, "lies in .* has dtype 'F99', which is not supported"),
        ({"lies": tensor((64,), (0, 64), dtype="F8_E4M3")}, "lies in .* has dtype 'F8_E4M3'"),
        ({"lies": 5}, "lies lacks a dtype, shape or place"),
        ({"lies": {"dtype": "F32"}}, "lies lacks a dtype, shape or place"),
        ([1], "its header is a list"),
        (b'{"lies": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 64]}}', "it holds NaN"),
        (b'{"lies": ' + b"9" * 5000 + b"}", "its header is no JSON"),
        (b'{"lies": ', "its header is no JSON"),
        (b"[" * DEEP, "its header is no JSON"),
        (b'{"\xff": 1}', "its header is no JSON"),
        (
            json.dumps({"lies": tensor()}).encode()[:-1]
            + b", "
            + json.dumps({"lies": tensor((16,), (0, 64))}).encode()[1:],
            "it names lies twice",
        ),
    ],
)
def test_headers_that_lie(header, message, tmp_path):
    write_header(tmp_path, header)
    with pytest.raises(ValueError, match=message) as error:
        Checkpoint(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("length", [2**64 - 1, 10**18, 99_999_999, 1000])
def test_headers_of_a_wrong_length(length, tmp_path):
    write_header(tmp_path, {"a": tensor((16,), (0, 64))}, length)
    assert f"a header of {length} bytes in a file of" in error_of(Checkpoint, tmp_path)


def test_honest_headers(tmp_path):
    write_header(
        tmp_path, {"empty": tensor((0, 3), (0, 0)), "a": tensor((4, 4), (0, 64)), "__metadata__": {"format": "pt"}}
    )
    found = Checkpoint(tmp_path)
    assert {name: tensor.shape for name, tensor in found.items()} == {"empty": (0, 3), "a": (4, 4)}
    assert not found["a"].read().any()
