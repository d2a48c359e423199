# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The images of rows, and the sizes of their files."""

import itertools
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.compute as pc
from datasets import Dataset

from flashsloth.image_reading_flashsloth import (
    DECOMPRESSION_BOMB,
    FORBIDDEN_IMAGE,
    MAX_DOWNLOAD,
    MISSING_IMAGE,
    UNREACHABLE_IMAGE,
    ImageError,
    read_image,
)
from flashsloth.train.data.wording import hide_secrets, shorten, show_address


# Schemes of fsspec that lead to other files and addresses, past what `read_image` checks.
FORBIDDEN_SCHEMES = (
    *("file", "local", "asynclocal", "data", "dir", "generic", "reference", "async_wrapper", "asyncwrapper"),
    *("cached", "blockcache", "filecache", "simplecache", "zip", "tar", "libarchive"),
)
RETRY_WAITS = (0.5, 2.0, 8.0)  # seconds before a server is asked again

# Threads that ask for the sizes of files: many, since a network's disks answer late.
THREADS = 16


class FromWorker(Exception):
    """An error that may come out of a worker of torch's `DataLoader`, which puts a traceback in front of its text."""

    def __init__(self, message: str):
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class UnreachableImage(FromWorker, ConnectionError):
    """An image whose server or disk does not answer: its row may be fine."""


def read_row_image(image: dict | None, *, reduced: bool = False) -> PIL.Image.Image:
    """
    Reads an image of a row.

    Args:
        image (`dict`, *optional*): `bytes` of its file, or its `path` or URL, as `datasets` holds it.
        reduced (`bool`, *optional*, defaults to `False`): Decode a JPEG at an eighth of its size: that reads all of
            it, in half the time.

    Raises:
        ImageError: If nothing can be learned from the image.
        UnreachableImage: If it cannot be fetched or read now, after some tries.
    """
    if image is None or image["bytes"] is None and image["path"] is None:
        raise ImageError("the row holds no image.", MISSING_IMAGE)
    content, path = image["bytes"], image["path"]
    name = shorten(show_address(path)) if path else f"{len(content)} bytes in the row"
    try:
        source = _source(path, name) if content is None else content
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about files that it can read
            return read_image(source, name, reduced=reduced, retry_waits=RETRY_WAITS)
    except ImageError as error:
        if error.reason != UNREACHABLE_IMAGE:
            raise
        raise UnreachableImage(f"{error} Start again when it can.") from error


def _source(path: str, name: str) -> str | Path | bytes:
    scheme, mark, rest = path.strip().partition("://")
    if not mark:
        return Path(path)
    scheme = scheme.lower()
    if scheme in ("http", "https"):
        return f"{scheme}://{rest}"
    if "::" in path:
        raise ImageError(f"{name} is not fetched: an address with '::' leads to another one.", FORBIDDEN_IMAGE)
    if scheme in FORBIDDEN_SCHEMES:
        raise ImageError(f"{name} is not fetched: write the path of a file, or the address itself.", FORBIDDEN_IMAGE)
    content = _fetch(f"{scheme}://{rest}", name)
    if len(content) > MAX_DOWNLOAD:
        raise ImageError(f"{name} has more than {MAX_DOWNLOAD >> 20} MiB: make it smaller.", DECOMPRESSION_BOMB)
    return content


def _fetch(address: str, name: str) -> bytes:
    """What fsspec reads, up to one byte more than an image may have."""
    try:
        with fsspec.open(address) as file:
            return file.read(MAX_DOWNLOAD + 1)
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist: check the address.", MISSING_IMAGE) from error
    except ImportError as error:  # no fault of the row: it is not skipped
        problem = _problem(error, address, name)
        raise UnreachableImage(f"{name} cannot be fetched, as a package is not installed: {problem}.") from error
    except ValueError as error:  # no file system has such addresses
        problem = _problem(error, address, name)
        raise ImageError(f"{name} cannot be fetched ({problem}): check the address.", MISSING_IMAGE) from error
    except Exception as error:  # of whatever library serves such addresses
        raise ImageError(f"{name} cannot be fetched: {_problem(error, address, name)}.", UNREACHABLE_IMAGE) from error


def _problem(error: Exception, address: str, name: str) -> str:
    """The text of an error, without the secrets of the address."""
    problem = hide_secrets(str(error).replace(address, name))
    parts = urlsplit(address)
    secrets = [part for part in (parts.username, parts.password, parts.query, parts.fragment) if part]
    return type(error).__name__ if any(secret in problem for secret in secrets) else problem.rstrip(".")


def file_sizes(dataset: Dataset) -> np.ndarray:
    """
    Shows whether image files have changed, without reading them: for each row a number made of their sizes in
    bytes, where they are local files.

    Args:
        dataset (`Dataset`): With a column `images` that is not decoded.

    Returns:
        `np.ndarray` of `int64`, of shape `(rows,)`: 0 of rows without such files.
    """
    batches = dataset.data.table.select(["images"]).to_batches()
    with ThreadPoolExecutor(THREADS) as pool:
        numbers = np.array([number for batch in pool.map(_numbers, batches) for number in batch], dtype=np.int64)
    # Rows that were selected from a table, or repeated in a mixture, stand in it once.
    return numbers if dataset._indices is None else numbers[dataset._indices.column(0).to_numpy()]


def _numbers(batch: pyarrow.RecordBatch) -> list[int]:
    """One number for the files of each row; Python's hash of a tuple of numbers is the same in every process."""
    images = batch.column("images")
    paths, contents = (pc.struct_field(images.flatten(), name) for name in ("path", "bytes"))
    sizes = map(_file_size, pc.if_else(pc.is_null(contents), paths, None).to_pylist())
    numbers = []
    for count in pc.fill_null(pc.list_value_length(images), 0).to_pylist():
        of_row = tuple(size for size in itertools.islice(sizes, count) if size is not None)
        numbers.append(hash(of_row) if of_row else 0)
    return numbers


def _file_size(path: str | None) -> int | None:
    if path is None or "://" in path:
        return None
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # of a name that no file can have
        return -1
