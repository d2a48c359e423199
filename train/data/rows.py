# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The rows of a set: their columns, how a record of somebody's data becomes one, and JSON files, which are read record by
record.
"""

import base64
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from urllib.parse import urlparse
from urllib.request import url2pathname

import ijson
import PIL.Image
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from datasets.exceptions import DatasetGenerationError

from flashsloth.train.data.formats import conversation, num_characters


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

IMAGE_COLUMNS = ("images", "image")

# Part of every cache's key. Raise it when rows are converted in another way: caches of the old way would be read.
FORMAT = 2


def make_row(record, index: int | str, folder: str, captions: bool) -> dict:
    """
    A row with the columns of `FEATURES`.

    Args:
        record (`Mapping`): In one of the forms of `flashsloth.train.data.formats`, with its images in "images" or
            "image": paths, URLs, files' bytes, or mappings of "bytes" and "path". Anything else makes a row whose
            `problem` says what is wrong with it.
        index (`int` or `str`): Names the row where it has no "id".
        folder (`str`): Where relative paths of images start.
        captions (`bool`): Leave the images alone of what the user says.
    """
    if not isinstance(record, Mapping):
        problem = f"it is {reprlib.repr(record)}; a row is a mapping of names to values"
        return {"images": [], **text_columns({}, index, 0, captions, problem)}
    images, problem = [], None
    try:
        images = _images(record, folder)
    except ValueError as error:
        problem = f"{error}"
    return {"images": images, **text_columns(dict(record), index, len(images), captions, problem)}


def text_columns(record: dict, index: int | str, num_images: int, captions: bool, problem: str | None = None) -> dict:
    """
    All columns of a row but its images, of which `num_images` tells how many there are, and `problem` what is wrong
    with them.
    """
    messages = []
    if problem is None:
        try:
            messages = conversation(record, num_images, captions)
            json.dumps(messages, ensure_ascii=False).encode()  # half of a surrogate pair is no text that can be stored
        except (ValueError, RecursionError) as error:
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


def _images(record: Mapping, folder: str) -> list[dict | None]:
    lists = [_as_list(record[key]) for key in IMAGE_COLUMNS if key in record]
    filled = [images for images in lists if images]
    if len(filled) > 1:
        raise ValueError(f"it has images in both {' and '.join(IMAGE_COLUMNS)}; it needs them in one of these")
    return [_image(image, folder) for image in filled[0]] if filled else []


def _as_list(images) -> list:
    return [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]


def _image(image, folder: str) -> dict | None:
    if image is None:
        return None
    if isinstance(image, PIL.Image.Image):
        return Image().encode_example(image)
    content, path = image, image
    if isinstance(image, str) and image.startswith("data:"):
        content = base64.b64decode(image.partition(",")[2], validate=True)
    elif isinstance(image, Mapping):
        content, path = image.get("bytes"), image.get("path")
    if isinstance(content, bytes):
        is_name = isinstance(path, str) and path is not image
        return {"bytes": content, "path": path if is_name else None}
    if isinstance(path, str):
        return {"bytes": None, "path": _located(path, folder)}
    if isinstance(image, Mapping) and content is None and path is None and image.keys() & {"bytes", "path"}:
        return None
    raise ValueError(f"an image is {reprlib.repr(image)}; it has to be a path, a URL or the file's bytes")


def _located(path: str, folder: str) -> str:
    path.encode()  # as of a text
    if path.startswith("file://"):
        return url2pathname(urlparse(path).path)
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
        # A row without an id is named by file and number: several files are read at once.
        settings["prefix"] = f"{os.path.basename(path)}:"
        return IterableDataset.from_generator(_json_rows, features=FEATURES, gen_kwargs=settings)
    stat = os.stat(path)
    key = {"size": stat.st_size, "modified": stat.st_mtime_ns, "format": FORMAT}
    try:
        return Dataset.from_generator(_json_rows, features=FEATURES, gen_kwargs=settings | key)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):  # says what is wrong, and where
            raise ValueError(str(error.__cause__)) from error
        raise


def _json_rows(path: str, folder: str, captions: bool, prefix: str = "", **cache_key) -> Iterator[dict]:
    """Converts the rows of a JSON array or of JSON lines one by one; the cache key is for `datasets` only."""
    index, first, are_all_bad = -1, None, True
    try:
        for index, record in enumerate(_json_records(path)):
            row = make_row(record, f"{prefix}{index}", folder, captions)
            first = row if first is None else first
            are_all_bad = are_all_bad and row["problem"] is not None
            yield row
    except (json.JSONDecodeError, ijson.JSONError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid JSON after {index + 1} rows: {error}") from error
    except (RecursionError, ValueError) as error:  # nested thousands deep, numbers of thousands of digits
        raise ValueError(f"{path} cannot be read after {index + 1} rows: {error}") from error
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
            yield from ijson.items(file, "item")
        else:
            yield from (json.loads(line) for line in file if not line.isspace())
