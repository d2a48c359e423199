# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Opens the data of a stage: files, folders and Hub datasets of several forms (`flashsloth.train.conversations`), alone
or mixed, as one `datasets` set. Rows stay in Arrow files on disk and images where they are, so that memory does not
grow with the number of rows; images are decoded by whoever reads a row.
"""

import glob
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import datasets
import ijson
import pyarrow
import pyarrow.compute
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from flashsloth.train.config import DataSource
from flashsloth.train.conversations import conversation, num_characters


logger = logging.getLogger(__name__)

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
# Column of the number of images, where the images themselves are not read.
COUNT = "_num_images"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Rows of a stream that are shuffled among each other.
SHUFFLE_BUFFER = 1000
# A set on disk that is mixed into a stream is read in so many pieces, for as many workers.
STREAM_SHARDS = 64


def load_data(sources: list[DataSource], seed: int) -> Dataset | IterableDataset:
    """
    Opens the sources and mixes them.

    Without weights all rows of all sources follow each other. With weights the source of each row is drawn by them
    until every source is used up; sources that are used up before that start again.

    Args:
        sources (`list[DataSource]`): What to open.
        seed (`int`): Of the mixture, and of the order of streams.

    Returns:
        `Dataset`, or `IterableDataset` if a source streams, with the columns `id`, `images`, `messages`, `num_images`
        and `length`. The same sources and seed give the same rows and the same fingerprint.

    Raises:
        ValueError: If a source is in no known form, or some sources have a weight and others none.
        FileNotFoundError: If a file or folder does not exist.
    """
    weights = [source.weight for source in sources]
    without = [source.path for source in sources if source.weight is None]
    if without and len(without) < len(sources):
        raise ValueError(f"{without[0]} has no weight but others have: give each source a weight, or none")
    parts = [_open(source) for source in sources]
    is_stream = any(source.streaming for source in sources)
    if is_stream:
        parts = [_as_stream(part, seed) for part in parts]
    if len(parts) == 1:
        mixture = parts[0]
    elif without:
        mixture = datasets.concatenate_datasets(parts)
    else:
        shares = [weight / sum(weights) for weight in weights]
        mixture = datasets.interleave_datasets(parts, shares, seed=seed, stopping_strategy="all_exhausted")
    if is_stream:
        return mixture.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
    for source, part in zip(sources, parts, strict=True):
        logger.info("%s: %s rows", source.path, f"{len(part):,}")
    if len(parts) > 1:
        logger.info("together: %s rows in an epoch", f"{len(mixture):,}")
    return mixture


def _as_stream(part: Dataset | IterableDataset, seed: int) -> IterableDataset:
    if isinstance(part, IterableDataset):
        return part
    return part.shuffle(seed=seed).to_iterable_dataset(num_shards=min(len(part), STREAM_SHARDS))


def _open(source: DataSource) -> Dataset | IterableDataset:
    path = os.path.expanduser(source.path)
    files = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    folder = _image_folder(source, path)
    kinds = sorted({Path(file).suffix.lower() for file in files})
    try:
        if os.path.isdir(path):
            rows = _open_folder(path, source)
        elif kinds and set(kinds) <= {".json", ".jsonl"}:
            _refuse(source, "name", "revision", "split")
            parts = [_open_json(os.path.abspath(file), folder, source) for file in files]
            return datasets.concatenate_datasets(parts)
        elif kinds == [".parquet"]:
            _refuse(source, "name", "revision")
            rows = datasets.load_dataset("parquet", data_files=files, split=source.split, streaming=source.streaming)
        elif kinds:
            found = " and ".join(kind or "files without an ending" for kind in kinds)
            raise ValueError(f"{source.path} is of the type {found}: it has to be .json, .jsonl or .parquet")
        elif HUB_ID.fullmatch(path) and Path(path).suffix not in (".json", ".jsonl", ".parquet"):
            rows = _open_hub(path, source)
        else:
            raise FileNotFoundError(f"No such data: {source.path} is no file, folder or pattern of files that exist")
    except (DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{source.path} cannot be read: {error.__cause__ or error}") from error
    if isinstance(rows, Dataset) and not len(rows):
        raise ValueError(f"{source.path} has no rows")
    try:
        return (_convert if isinstance(rows, Dataset) else _convert_stream)(rows, folder, source.captions)
    except ValueError as error:
        raise ValueError(f"{source.path}, {error}") from error


def _image_folder(source: DataSource, path: str) -> str:
    """The folder from which relative paths of images start: the given one, or where the rows are."""
    if source.image_folder is None:
        return os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path))
    folder = os.path.abspath(os.path.expanduser(source.image_folder))
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"The image_folder of {source.path} does not exist: {source.image_folder}. The paths of the rows' images "
            "start from it."
        )
    return folder


def _refuse(source: DataSource, *settings: str) -> None:
    for setting in settings:
        value = getattr(source, setting)
        if value not in (None, "train"):
            raise ValueError(f"{source.path} is a file, which has no {setting}: leave out {setting} ({value})")


def _open_folder(path: str, source: DataSource) -> Dataset | IterableDataset:
    _refuse(source, "revision")
    if not any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json")):
        return datasets.load_dataset(path, source.name, split=source.split, streaming=source.streaming)
    rows = datasets.load_from_disk(path)
    if isinstance(rows, DatasetDict):
        if source.split not in rows:
            raise ValueError(f"{source.path} has no split {source.split!r}: it has {', '.join(rows)}")
        rows = rows[source.split]
    return rows


def _open_hub(path: str, source: DataSource) -> Dataset | IterableDataset:
    try:
        return datasets.load_dataset(
            path, source.name, split=source.split, revision=source.revision, streaming=source.streaming
        )
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"There is no file or folder {source.path}, and the Hub dataset of that name cannot be loaded: {error}"
        ) from error


def _open_json(path: str, folder: str, source: DataSource) -> Dataset | IterableDataset:
    settings = {"path": path, "folder": folder, "captions": source.captions}
    if source.streaming:
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
            yield _row(record, index, folder, captions)
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


def _convert(rows: Dataset, folder: str, captions: bool) -> Dataset:
    """Converts the texts of rows; the bytes of images are neither read nor copied if they stand in `images`."""
    pictures = None
    if _has_encoded_images(rows):
        pictures = _with_images(rows.select_columns("images"), "images", List(Image()))
        counts = pyarrow.compute.list_value_length(rows.data.column("images"))
        rows = rows.remove_columns("images").add_column(COUNT, counts.to_pylist())
        function, features = _counted_row, Features({key: FEATURES[key] for key in FEATURES if key != "images"})
    else:
        for column, feature in (("image", Image(decode=False)), ("images", List(Image(decode=False)))):
            if column in rows.features and _holds_images(rows.features[column]):
                rows = _with_images(rows, column, feature)
        function, features = _row, FEATURES

    fingerprint = Hasher.hash([rows._fingerprint, folder, captions, FORMAT])
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "flashsloth" / f"{fingerprint}.arrow"
    cache.parent.mkdir(parents=True, exist_ok=True)
    texts = rows.map(
        function,
        with_indices=True,
        fn_kwargs={"folder": folder, "captions": captions},
        remove_columns=rows.column_names,
        features=features,
        # `datasets` would write beside the rows, which may be where nobody may write.
        cache_file_name=str(cache),
        new_fingerprint=fingerprint,
        writer_batch_size=100,
        desc="Reading conversations",
    )
    if pictures is None:
        return texts
    return datasets.concatenate_datasets([pictures, texts], axis=1).select_columns(list(FEATURES))


def _convert_stream(rows: IterableDataset, folder: str, captions: bool) -> IterableDataset:
    if rows.features is not None:
        rows = rows.decode(False)
    return rows.map(
        _row,
        with_indices=True,
        fn_kwargs={"folder": folder, "captions": captions},
        remove_columns=list(next(iter(rows))),
        features=FEATURES,
    ).decode(True)


def _has_encoded_images(rows: Dataset) -> bool:
    """Whether `images` can be taken over: lists of files' bytes or paths as `datasets` stores them, none missing."""
    feature = rows.features.get("images")
    return isinstance(feature, List) and _holds_images(feature) and not rows.data.column("images").null_count


def _holds_images(feature) -> bool:
    item = feature.feature if isinstance(feature, List) else feature
    return isinstance(item, Image) or (isinstance(item, dict) and list(item) == ["bytes", "path"])


def _with_images(rows: Dataset, column: str, feature) -> Dataset:
    """Says what a column holds. `cast_column` would copy the bytes of every image."""
    info = rows.info.copy()
    info.features = Features({**rows.features, column: feature})
    return Dataset(rows.data, info=info, split=rows.split, fingerprint=rows._fingerprint)


def _row(record: Mapping, index: int, folder: str, captions: bool) -> dict:
    images = record.get("images", record.get("image"))
    images = [] if images is None else images if isinstance(images, list) else [images]
    images = [_image(image, index, folder) for image in images]
    return {"images": images, **_texts(dict(record), index, len(images), captions)}


def _counted_row(record: Mapping, index: int, folder: str, captions: bool) -> dict:
    record = dict(record)
    return _texts(record, index, record.pop(COUNT), captions)


def _texts(record: dict, index: int, num_images: int, captions: bool) -> dict:
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
