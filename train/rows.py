# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The rows of a set: their columns, how a record of somebody's data becomes one, and JSON files, which are read record by
record.
"""

import json
import os
from collections.abc import Iterator, Mapping

import ijson
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from datasets.exceptions import DatasetGenerationError

from flashsloth.train.conversations import conversation, num_characters


MESSAGES = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
# `length` is the number of characters of all texts: batches of rows of similar length need no tokenizer.
FEATURES = Features(
    {
        "id": Value("string"),
        "images": List(Image()),
        "messages": MESSAGES,
        "num_images": Value("int32"),
        "length": Value("int32"),
    }
)

# Part of every cache's key. Raise it when rows are converted in another way: caches of the old way would be read.
FORMAT = 1


def make_row(record: Mapping, index: int, folder: str, captions: bool) -> dict:
    """
    A row with the columns of `FEATURES`.

    Args:
        record (`Mapping`): In one of the forms of `flashsloth.train.conversations`, with its images in "images" or
            "image": paths, URLs, files' bytes, or mappings of "bytes" and "path".
        index (`int`): Names the row where it has no "id", and in errors.
        folder (`str`): Where relative paths of images start.
        captions (`bool`): Leave the images alone of what the user says.

    Raises:
        ValueError: If the record is in no known form.
    """
    images = record.get("images", record.get("image"))
    images = [] if images is None else images if isinstance(images, list) else [images]
    images = [_image(image, index, folder) for image in images]
    return {"images": images, **text_columns(dict(record), index, len(images), captions)}


def text_columns(record: dict, index: int, num_images: int, captions: bool) -> dict:
    """All columns of a row but its images, of which `num_images` tells how many there are."""
    try:
        messages = conversation(record, num_images, captions)
    except ValueError as error:
        raise ValueError(f"row {index}: {error}") from error
    name = index if record.get("id") is None else record["id"]
    return {"id": str(name), "messages": messages, "num_images": num_images, "length": num_characters(messages)}


def _image(image, index: int, folder: str) -> str | dict | None:
    if isinstance(image, str):
        return image if "://" in image else os.path.join(folder, image)
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    if image is None or (isinstance(image, dict) and image.keys() <= {"bytes", "path"}):
        return image
    raise ValueError(f"row {index}: an image is {str(image)[:80]!r}; it has to be a path, a URL or the file's bytes")


def open_json(path: str, folder: str, captions: bool, streaming: bool) -> Dataset | IterableDataset:
    """
    A file that holds a JSON array, or JSON lines, without ever holding all of it in memory.

    Args:
        path (`str`): The file, by its absolute path.
        folder (`str`), captions (`bool`): See [`make_row`].
        streaming (`bool`): Read rows as they come; else they are copied into the cache of `datasets` once.

    Raises:
        ValueError: If it is no JSON, has no rows, or one of them is in no known form: at once, or of a stream where it
            comes.
    """
    settings = {"path": path, "folder": folder, "captions": captions}
    if streaming:
        return IterableDataset.from_generator(_json_rows, features=FEATURES, gen_kwargs=settings)
    stat = os.stat(path)
    key = {"size": stat.st_size, "modified": stat.st_mtime_ns, "format": FORMAT}
    try:
        return Dataset.from_generator(_json_rows, features=FEATURES, gen_kwargs=settings | key)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):  # says what is wrong, and where
            raise ValueError(str(error.__cause__)) from error
        raise


def _json_rows(path: str, folder: str, captions: bool, **cache_key) -> Iterator[dict]:
    """Converts the rows of a JSON array or of JSON lines one by one; the cache key is for `datasets` only."""
    index = -1
    try:
        for index, record in enumerate(_json_records(path)):
            if not isinstance(record, dict):
                raise ValueError(f"row {index}: it is {str(record)[:80]!r}; a row is a mapping of names to values")
            yield make_row(record, index, folder, captions)
    except (json.JSONDecodeError, ijson.JSONError) as error:
        raise ValueError(f"{path} is no valid JSON after {index + 1} rows: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    if index < 0:
        raise ValueError(f"{path} has no rows")


def _json_records(path: str) -> Iterator:
    with open(path, "rb") as file:
        first = file.read(1)
        while first.isspace() or first in (b"\xef", b"\xbb", b"\xbf"):  # spaces, and a byte order mark
            first = file.read(1)
        file.seek(-len(first), os.SEEK_CUR)
        if first == b"[":
            yield from ijson.items(file, "item", use_float=True)
        else:
            yield from (json.loads(line) for line in file if not line.isspace())
