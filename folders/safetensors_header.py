# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Checks the header of a safetensors file (https://huggingface.co/docs/safetensors) before anything in it is used. The
library that reads the file afterwards checks it too, but its errors seldom name the tensor, and it accepts a header
that names a tensor twice.
"""

import json
import math
from pathlib import Path

import torch


# Names of the format. It has others, for numbers of 8 bits and less, which are those of quantized weights.
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

LENGTH_BYTES = 8  # the file begins with the length of its header
MAX_HEADER_BYTES = 100_000_000  # the library's own limit
MAX_DIMENSIONS = 8


def check_header(file: Path) -> None:
    """
    Compares the header with the file's length and with itself.

    Raises:
        ValueError: If the header is damaged or lies about a tensor; the message names both.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
            raise _damaged(file, f"a header of {length} bytes in a file of {size}")
        text = stream.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(file, f"its header is a {type(header).__name__}")
    header.pop("__metadata__", None)
    tensors = sorted((*_data_offsets(file, name, entry), name) for name, entry in header.items())
    expected = 0
    for begin, end, name in tensors:
        if begin != expected:
            raise _damaged(
                file, f"{name} begins at byte {begin} of the data, but the one before it ends at {expected}"
            )
        expected = end
        if end > size - LENGTH_BYTES - length:
            raise _damaged(file, f"{name} ends at byte {end} of the data, which has {size - LENGTH_BYTES - length}")
    if expected != size - LENGTH_BYTES - length:
        raise _damaged(file, f"its tensors end at byte {expected} of the data, which has more")


def _data_offsets(file: Path, name: str, entry) -> tuple[int, int]:
    """Where a tensor lies, checked against its shape."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _damaged(file, f"{name} lacks a dtype, shape or place")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_DTYPES:
        raise ValueError(f"{name} in {file} has dtype {dtype!r}, which is not supported.")
    if not _is_counts(shape) or len(shape) > MAX_DIMENSIONS or not _is_counts(offsets) or len(offsets) != 2:
        raise _damaged(file, f"{name} has shape {str(shape)[:80]} and data_offsets {str(offsets)[:80]}")
    begin, end = offsets
    num_bytes = math.prod(shape) * SAFETENSORS_DTYPES[dtype].itemsize
    if end - begin != num_bytes:
        raise _damaged(file, f"{name} of shape {shape} and dtype {dtype} takes {num_bytes} bytes, not {end - begin}")
    return begin, end


def _is_counts(values) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _without_repetition(pairs: list[tuple[str, object]]) -> dict:
    result = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"it names {name} twice")
        result[name] = value
    return result


def _refuse_constant(name: str):
    raise ValueError(f"it holds {name}")


def _damaged(file: Path, reason: str) -> ValueError:
    return ValueError(f"{file} is damaged or no safetensors file ({reason}). Download it again.")
