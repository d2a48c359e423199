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
# Images stay files until a batch is made of them. `length` is the number of characters of all texts: batches of rows
# of similar length need no tokenizer. `problem` says why a row could not be converted; it has no messages then.
FEATURES = Features(
    {
        "id": Value("string"),
        "images": List(Image(decode=False)),
        "messages": MESSAGES,
        "num_images": Value("int32"),
        "length": Value("int32"),
        "problem": Value("string"),
    }
)

# Part of every cache's key. Raise it when rows are converted in another way: caches of the old way would be read.
FORMAT = 2


def make_row(record, index: int, folder: str, captions: bool) -> dict:
    """
    A row with the columns of `FEATURES`.

    Args:
        record (`Mapping`): In one of the forms of `flashsloth.train.conversations`, with its images in "images" or
            "image": paths, URLs, files' bytes, or mappings of "bytes" and "path". Anything else makes a row whose
            `problem` says what is wrong with it.
        index (`int`): Names the row where it has no "id".
        folder (`str`): Where relative paths of images start.
        captions (`bool`): Leave the images alone of what the user says.
    """
    if not isinstance(record, Mapping):
        problem = f"it is {str(record)[:80]!r}; a row is a mapping of names to values"
        return {"images": [], **text_columns({}, index, 0, captions, problem)}
    images, problem = record.get("images", record.get("image")), None
    images = [] if images is None else images if isinstance(images, list) else [images]
    try:
        images = [_image(image, folder) for image in images]
    except ValueError as error:
        images, problem = [], f"{error}"
    return {"images": images, **text_columns(dict(record), index, len(images), captions, problem)}


def text_columns(record: dict, index: int, num_images: int, captions: bool, problem: str | None = None) -> dict:
    """
    All columns of a row but its images, of which `num_images` tells how many there are, and `problem` what is wrong
    with them.
    """
    messages = []
    if problem is None:
        try:
            messages = conversation(record, num_images, captions)
            json.dumps(messages, ensure_ascii=False).encode()  # half of a surrogate pair is no text that can be stored
        except ValueError as error:
            messages, problem = [], f"{error}"
    name = index if record.get("id") is None else record["id"]
    return {
        "id": _storable(str(name)),
        "messages": messages,
        "num_images": num_images,
        "length": num_characters(messages),
        "problem": None if problem is None else _storable(problem),
    }


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _image(image, folder: str) -> str | dict | None:
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    if isinstance(image, str):
        return _located(image, folder)
    if image is None:
        return None
    if isinstance(image, dict) and image.keys() <= {"bytes", "path"}:
        content, path = image.get("bytes"), image.get("path")
        if isinstance(content, bytes):
            return {"bytes": content, "path": path}
        if content is None and (path is None or isinstance(path, str)):
            return path and _located(path, folder)
    raise ValueError(f"an image is {str(image)[:80]!r}; it has to be a path, a URL or the file's bytes")


def _located(path: str, folder: str) -> str:
    path.encode()  # as of a text
    return path if "://" in path else os.path.join(folder, path)


def open_json(path: str, folder: str, captions: bool, streaming: bool) -> Dataset | IterableDataset:
    """
    A file that holds a JSON array, or JSON lines, without ever holding all of it in memory.

    Args:
        path (`str`): The file, by its absolute path.
        folder (`str`), captions (`bool`): See [`make_row`].
        streaming (`bool`): Read rows as they come; else they are copied into the cache of `datasets` once.

    Raises:
        ValueError: If it is no JSON, has no rows, or none of them is in a known form: at once, or of a stream at its
            end.
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
    index, first, are_all_bad = -1, None, True
    try:
        for index, record in enumerate(_json_records(path)):
            row = make_row(record, index, folder, captions)
            first = row if first is None else first
            are_all_bad = are_all_bad and row["problem"] is not None
            yield row
    except (json.JSONDecodeError, ijson.JSONError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid JSON after {index + 1} rows: {error}") from error
    if first is None:
        raise ValueError(f"{path} has no rows")
    if are_all_bad:
        raise ValueError(f"{path} has no row in a known form. Row 0: {first['problem']}")


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
