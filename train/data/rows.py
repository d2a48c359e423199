# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Sets of raw rows as sets of rows (`flashsloth.train.data.formats`): JSON files, which are read row by row, and the
tables that `datasets` opens. Rows are written to Arrow files in the cache of `datasets` once, so that memory does not
grow with their number; images are not copied.
"""

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import datasets
import ijson
import pyarrow.compute as pc
from datasets import Audio, Dataset, Features, Image, IterableDataset, LargeList, List, Video
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from flashsloth.train.data.formats import (
    FEATURES,
    FORMAT,
    FORMS,
    IMAGE_COLUMNS,
    OF_A_QUESTION,
    PART_IMAGES,
    QUESTIONS,
    TEXT_COLUMNS,
    make_row,
    make_text_columns,
    question_columns,
)
from flashsloth.train.data.keys import decides
from flashsloth.train.data.wording import hide_secrets, shorten


logger = logging.getLogger(__name__)

# The columns that a form reads; `decides` names those that may change what a row means.
READ_COLUMNS = {"id", "label", *IMAGE_COLUMNS, *TEXT_COLUMNS, *OF_A_QUESTION, *itertools.chain(*QUESTIONS)}
QUESTION_FORMS = "question and answer"
# Of a parser, after which an object of a JSON file is taken for one that holds rows, and is none.
EVENTS_OF_A_ROW = 20_000

# JSON files


def convert_json(path: str, folder: str, captions: bool, streaming: bool) -> Dataset | IterableDataset:
    """
    Reads a file that holds a JSON array, an object with such an array in it, or JSON lines.

    `datasets` has a reader of its own, but it holds a whole array in memory, and refuses rows of different types (an
    id that is a number here and a text there, one image or a list of them).

    Args:
        path (`str`): The file, by its absolute path.
        folder (`str`), captions (`bool`): See [`~flashsloth.train.data.formats.make_row`].
        streaming (`bool`): Whether to read rows as they come, without a copy in the cache.

    Raises:
        ValueError: If the file is no JSON, has no rows, or none of them has a known form: at once, or at the end of a
            stream.
    """
    settings = {"path": path, "folder": folder, "captions": captions}
    if streaming:
        # Several files are read at once, so the name of the file is part of the id of a row that has none.
        settings["prefix"] = f"{os.path.basename(path)}:"
        return IterableDataset.from_generator(_json_rows, features=FEATURES, gen_kwargs=settings)
    stat = os.stat(path)
    key = {"size": stat.st_size, "modified": stat.st_mtime_ns, "format": FORMAT}
    try:
        return Dataset.from_generator(_json_rows, features=FEATURES, gen_kwargs=settings | key)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):  # one of those below
            raise ValueError(str(error.__cause__)) from error
        raise


def _json_rows(path: str, folder: str, captions: bool, prefix: str = "", **cache_key) -> Iterator[dict]:
    """The rows of a file. `cache_key` is for `datasets`, whose key of the cache is a hash of all arguments."""
    index, first, has_good_row, keys = -1, None, False, set()
    try:
        for index, raw_row in enumerate(_json_raw_rows(path)):
            row = make_row(raw_row, f"{prefix}{index}", folder, captions)
            first = first or row
            has_good_row = has_good_row or row["problem"] is None
            keys.update(raw_row if isinstance(raw_row, Mapping) else ())
            yield row
    except (json.JSONDecodeError, ijson.JSONError, UnicodeDecodeError) as error:
        reason = shorten(hide_secrets(" ".join(str(error).splitlines()[0].split())))  # others quote the file
        rule = "A file holds an array of rows, or one row a line"
        raise ValueError(f"{path} is no valid JSON after {index + 1} rows: {reason}. {rule}") from error
    except (RecursionError, ValueError) as error:  # nested thousands deep, numbers of thousands of digits
        raise ValueError(f"{path} cannot be read after {index + 1} rows: {error}") from error
    if first is None:
        raise ValueError(f"{path} has no rows")
    if not has_good_row:
        raise ValueError(f"{path} has no row that can be read. Row 0: {first['problem']}")
    _log_metadata(keys)


def _json_raw_rows(path: str) -> Iterator:
    with open(path, "rb") as file:
        first = file.read(1)
        while first.isspace() or first in (b"\xef", b"\xbb", b"\xbf"):  # spaces, and a byte order mark
            first = file.read(1)
        start = file.seek(-len(first), os.SEEK_CUR)
        if first == b"[":
            yield from ijson.items(file, "item")
            return
        name, is_lines = _list_of_rows(file), True
        file.seek(start)
        if name is None:
            is_lines = _is_json(file.readline())
            file.seek(start)
        if name is not None:
            yield from ijson.items(file, f"{name}.item")
        elif is_lines:
            yield from (json.loads(line) for line in file if not line.isspace())
        else:  # objects of several lines, one after another
            yield from ijson.items(file, "", multiple_values=True)


def _list_of_rows(file: BinaryIO) -> str | None:
    """The key of the first object of a file that holds a list of rows, as in `{"data": [...]}`; none of a row."""
    name, found, keys, keys_of_first = None, None, set(), set()
    try:
        for prefix, event, value in itertools.islice(ijson.parse(file, multiple_values=True), EVENTS_OF_A_ROW):
            if not prefix and event == "end_map":
                break
            if not prefix and event == "map_key":
                name, keys_of_first = value, set()
                keys.add(value)
            elif found is None and prefix == f"{name}.item" and event == "map_key":
                keys_of_first.add(value)
                found = name if _has_form(keys_of_first) else None
    except ijson.JSONError:  # which is reported when the rows are read
        pass
    return None if _has_form(keys) else found


def _has_form(keys: set[str]) -> bool:
    return bool(keys & set(TEXT_COLUMNS) or question_columns(keys))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# Tables


NUM_IMAGES = "_num_images"  # the column that takes the place of the images while the texts are converted
ARROW_IMAGES = FEATURES.arrow_schema.field("images").type
TEXT_FEATURES = Features({name: feature for name, feature in FEATURES.items() if name != "images"})


def convert_table(raw_rows: Dataset, folder: str, captions: bool) -> Dataset:
    """
    Converts the raw rows of a set.

    Args:
        raw_rows (`Dataset`): Of any columns.
        folder (`str`), captions (`bool`): See [`~flashsloth.train.data.formats.make_row`].

    Raises:
        ValueError: If no row has a known form.
    """
    if not len(raw_rows):
        raise ValueError("has no rows")
    raw_rows = _without_decoding(_select_columns(raw_rows))
    images, function, features = None, make_row, FEATURES
    if _has_encoded_images(raw_rows):
        # The column of images stays what it is: `map` would copy the bytes of every image.
        images = _with_features(raw_rows.select_columns("images"), Features({"images": FEATURES["images"]}))
        counts = pc.list_value_length(raw_rows.data.column("images"))
        raw_rows = raw_rows.remove_columns("images").add_column(NUM_IMAGES, counts.to_pylist())
        function, features = _make_counted_row, TEXT_FEATURES

    fingerprint = Hasher.hash([raw_rows._fingerprint, folder, captions, FORMAT])
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "flashsloth" / f"{fingerprint}.arrow"
    cache.parent.mkdir(parents=True, exist_ok=True)
    rows = raw_rows.map(
        function,
        with_indices=True,
        fn_kwargs={"folder": folder, "captions": captions},
        remove_columns=raw_rows.column_names,
        features=features,
        # `datasets` would write beside the raw rows, where we may have no right to write.
        cache_file_name=str(cache),
        new_fingerprint=fingerprint,
        writer_batch_size=100,
        desc="Reading conversations",
    )
    problems = rows.data.column("problem")
    if not problems.null_count:
        raise ValueError(f"has no row that can be read. Row 0: {problems[0]}")
    if images is None:
        return rows
    return datasets.concatenate_datasets([images, rows], axis=1).select_columns(list(FEATURES))


def convert_stream(raw_rows: IterableDataset, folder: str, captions: bool) -> IterableDataset:
    """
    Converts the raw rows of a stream when they are read.

    Args:
        raw_rows (`IterableDataset`): Of any columns.
        folder (`str`), captions (`bool`): See [`~flashsloth.train.data.formats.make_row`].

    Raises:
        ValueError: If the stream is empty, or has no column of a known form.
    """
    if raw_rows.features is not None:
        raw_rows = _select_columns(raw_rows).decode(False)
    first = next(iter(raw_rows), None)
    if first is None:
        raise ValueError("has no rows")
    return raw_rows.map(
        _make_stream_row,
        fn_kwargs={"folder": folder, "captions": captions},
        remove_columns=list(first),
        features=FEATURES,
    )


def _select_columns(raw_rows: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Leaves out columns of metadata, as they could hold images that cannot be decoded."""
    names = raw_rows.column_names
    if not _has_form(set(names)):
        raise ValueError(f"has the columns {shorten(', '.join(names))}; it needs {FORMS}, or {QUESTION_FORMS}")
    selected = [name for name in names if name in READ_COLUMNS or decides(name)]
    _log_metadata(names)
    return raw_rows.select_columns(selected)


def _log_metadata(names: Iterable[str]) -> None:
    if metadata := sorted({name for name in names if name not in READ_COLUMNS and not decides(name)}):
        logger.info("Columns that are passed over: %s", shorten(", ".join(metadata)))


def _without_decoding(raw_rows: Dataset) -> Dataset:
    """Marks all images as not to be decoded; `cast_column` would copy their bytes."""
    features = {name: _without_decoding_feature(feature) for name, feature in raw_rows.features.items()}
    return _with_features(raw_rows, Features(features))


def _without_decoding_feature(feature):
    if isinstance(feature, (Audio, Image, Video)):
        return replace(feature, decode=False)
    if isinstance(feature, dict):
        return {name: _without_decoding_feature(nested) for name, nested in feature.items()}
    if isinstance(feature, (List, LargeList)):
        return replace(feature, feature=_without_decoding_feature(feature.feature))
    return feature


def _with_features(rows: Dataset, features: Features) -> Dataset:
    info = rows.info.copy()
    info.features = features
    return Dataset(rows.data, info=info, split=rows.split, fingerprint=rows._fingerprint)


def _has_encoded_images(raw_rows: Dataset) -> bool:
    """
    Whether the column `images` can stay as it is: lists of the bytes of files, as `datasets` stores them. Every row
    has to be converted where a list is missing, where paths may start from a folder, where the type is another one,
    where there are two columns of images, and where messages may hold images.
    """
    if any(_may_hold_images(raw_rows.features.get(name)) for name in TEXT_COLUMNS):
        return False
    names = [name for name in IMAGE_COLUMNS if name in raw_rows.column_names]
    if names != ["images"] or raw_rows.features.arrow_schema.field("images").type != ARROW_IMAGES:
        return False
    images = raw_rows.data.column("images")
    if images.null_count:
        return False
    paths, contents = (pc.struct_field(pc.list_flatten(images), name) for name in ("path", "bytes"))
    return not pc.any(pc.and_(pc.is_valid(paths), pc.is_null(contents))).as_py()


def _may_hold_images(feature) -> bool:
    """Whether a column of messages has parts with a place for an image."""
    if isinstance(feature, (List, LargeList)):
        return _may_hold_images(feature.feature)
    if isinstance(feature, dict):
        return not feature.keys().isdisjoint(PART_IMAGES) or any(map(_may_hold_images, feature.values()))
    return False


def _make_counted_row(raw_row: Mapping, index: int, folder: str, captions: bool) -> dict:
    texts = dict(raw_row)
    return make_text_columns(texts, index, texts.pop(NUM_IMAGES), captions)


def _make_stream_row(raw_row: Mapping, folder: str, captions: bool) -> dict:
    row = make_row(raw_row, 0, folder, captions)
    if raw_row.get("id") is None:
        # Several files are read at once, in another order each time, so that rows have no numbers.
        row["id"] = hashlib.sha256(repr((row["messages"], row["problem"])).encode()).hexdigest()[:12]
    # `map` of a stream does not encode what the function returns.
    return FEATURES.encode_example(row)
