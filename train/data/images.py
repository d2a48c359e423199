# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The images of rows: decoded in workers, named when they cannot be, and the sizes of their files."""

import errno
import io
import itertools
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow
import pyarrow.compute as pc
from datasets import Dataset, Image

from flashsloth.image_processing_flashsloth import FlashSlothImageProcessor


MISSING_IMAGE = "missing image"
TRUNCATED_IMAGE = "truncated image"
BOMB = "decompression bomb"
UNDECODABLE = "undecodable image"

TIMEOUT = 30.0  # of connections, in seconds
WAITS = (0.5, 2.0, 8.0)  # before a server is asked again, in seconds
GONE = (404, 410)  # status codes of HTTP
# Errors of the system that say that there is no such file; others are the machine's trouble.
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)

# Threads that ask for the sizes of files: many, since a network's disks answer late.
THREADS = 16


class FromWorker(Exception):
    """An error that may come out of a worker of torch's `DataLoader`, which puts a traceback in front of its text."""

    def __init__(self, message: str):
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class UnreachableImage(FromWorker, ConnectionError):
    """An image that could not be fetched from a server or a disk; nothing is known of it."""


class BadImage(ValueError):
    """
    An image that nothing can be learned from.

    Args:
        reason (`str`): One of the constants above.
        detail (`str`): Which file, and what is wrong with it.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_image(image: dict | None, image_processor: FlashSlothImageProcessor, small: bool = False) -> PIL.Image.Image:
    """
    Decodes an image of a row.

    Args:
        image (`dict`, *optional*): `bytes` of its file, or its `path` or URL, as `datasets` holds it.
        image_processor ([`FlashSlothImageProcessor`]): Whose limits and conversions apply.
        small (`bool`, *optional*, defaults to `False`): Decode a JPEG at an eighth of its size: that reads all of it,
            in half of the time.

    Raises:
        BadImage: If it is missing, a decompression bomb, or cannot be decoded.
        UnreachableImage: If it is elsewhere and cannot be fetched, after some tries.
    """
    if image is None or image["bytes"] is None and image["path"] is None:
        raise BadImage(MISSING_IMAGE, "the row holds none")
    name = image["path"] or f"{len(image['bytes'])} bytes in the row"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            return image_processor.fetch_images(_decode(image, small))
    except (ConnectionError, TimeoutError, ImportError) as error:
        raise UnreachableImage(f"{name} cannot be fetched: {error}. Start again when it can.") from error
    except MemoryError:
        raise
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
        limit = f"more than PIL.Image.MAX_IMAGE_PIXELS = {PIL.Image.MAX_IMAGE_PIXELS} pixels"
        raise BadImage(BOMB, f"{name}: {limit}") from error
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to: that is the finding
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, FileNotFoundError) or number in NOT_THERE:
            raise BadImage(MISSING_IMAGE, f"{name}: {error.strerror or error}") from error
        if number is not None:  # of the system, not of Pillow
            raise UnreachableImage(f"{name} cannot be read: {error.strerror}. Start again when it can.") from error
        text = f"{error}" or type(error).__name__
        is_truncated = isinstance(error, EOFError) or "truncated" in text.lower()
        raise BadImage(TRUNCATED_IMAGE if is_truncated else UNDECODABLE, f"{name}: {text}") from error


def _decode(image: dict, small: bool) -> PIL.Image.Image:
    content, path = image["bytes"], image["path"]
    if content is None and path.startswith(("http://", "https://")):
        content = _fetch(path)
    if content is None and "://" in path:
        return Image().decode_example(image)
    with PIL.Image.open(path if content is None else io.BytesIO(content)) as opened:
        if small:
            opened.draft(None, (1, 1))
        opened.load()
        return PIL.ImageOps.exif_transpose(opened)


def _fetch(url: str) -> bytes:
    """What a server answers; `datasets` would need another HTTP library for it."""
    for seconds in (*WAITS, None):
        try:
            response = httpx2.get(url, timeout=TIMEOUT, follow_redirects=True)
        except httpx2.UnsupportedProtocol as error:
            raise ValueError(f"{error}") from error
        except httpx2.HTTPError as error:
            reason = f"{error}"
        else:
            if response.is_success:
                return response.content
            reason = f"the server answered {response.status_code}"
            if response.status_code in GONE:
                raise FileNotFoundError(errno.ENOENT, reason)
        if seconds is not None:
            time.sleep(seconds)
    raise ConnectionError(reason)


def file_sizes(dataset: Dataset) -> np.ndarray:
    """
    What tells whether image files have changed, without reading them: for each row a number made of their sizes in
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
