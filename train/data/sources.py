# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Opens the data of a stage: files, folders and Hub datasets of several forms (`flashsloth.train.data.formats`), alone
or mixed, as one `datasets` set. Rows stay in Arrow files on disk and images where they are, so that memory does not
grow with the number of rows; images are decoded by whoever reads a row.
"""

import glob
import hashlib
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import pyarrow
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, LargeList, List, Value
from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from httpx2 import HTTPError
from huggingface_hub import is_offline_mode
from huggingface_hub.dataclasses import strict

from flashsloth.folders.downloads import download_error
from flashsloth.train.data.formats import COLUMNS, FORMS
from flashsloth.train.data.rows import FEATURES, FORMAT, IMAGE_COLUMNS, make_row, open_json, text_columns


logger = logging.getLogger(__name__)

JSON = (".json", ".jsonl")
# Column of the number of images, where the images themselves are not read.
COUNT = "_num_images"
STREAM_FEATURES = Features({**FEATURES, "source": Value("string")})
ARROW_IMAGES = FEATURES.arrow_schema.field("images").type
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# A set on disk that is mixed into a stream is read in so many pieces, for as many workers.
STREAM_SHARDS = 64


@strict
@dataclass
class DataSource:
    """
    A set of conversations, or one part of a mixture.

    Args:
        path (`str`): A `.json`, `.jsonl` or `.parquet` file (or a pattern such as `data/*.parquet`), a folder of such
            files, a folder written by `save_to_disk`, or the name of a dataset on the Hub.
        image_folder (`str`, *optional*): Folder that the paths of the rows' images start from.
        name (`str`, *optional*): Configuration of a dataset on the Hub.
        split (`str`, *optional*, defaults to `"train"`): Split of a dataset on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of a dataset on the Hub.
        weight (`float`, *optional*): Share of this source in a mixture, relative to the others'. Without weights all
            rows of all sources are used once.
        streaming (`bool`, *optional*, defaults to `False`): Whether rows are read as they come, without a local copy.
        captions (`bool`, *optional*, defaults to `False`): Whether the image alone takes the place of what the human
            says: image in, caption out, as stage 1 is trained.

    Raises:
        ValueError: If `weight` is not above 0, or not finite.
    """

    path: str
    image_folder: str | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    weight: float | int | None = None
    streaming: bool = False
    captions: bool = False

    def __post_init__(self):
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise ValueError(
                f"the weight of {self.path} is {self.weight}: it has to be a number above 0, or leave it out"
            )


def name_of(source: DataSource) -> str:
    """What a source is called where others read it: a dataset's id on the Hub, or the last part of a local path."""
    path = os.path.expanduser(source.path)
    is_local = os.path.exists(path) or glob.glob(path, recursive=True)
    return Path(path).name if is_local else source.path


def load_data(
    sources: list[DataSource],
    seed: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> Dataset | IterableDataset:
    """
    Opens the sources and mixes them.

    Without weights all rows of all sources follow each other. With weights the source of each row is drawn by them
    until every source is used up; sources that are used up before that start again.

    Args:
        sources (`list[DataSource]`): What to open.
        seed (`int`): Of the mixture.
        process_index (`int`, *optional*, defaults to 0), num_processes (`int`, *optional*, defaults to 1): Whose part
            of a stream. Where its files can be dealt evenly, each process reads its own; else each reads all of them,
            and keeps every so-manieth row. A set is opened whole.

    Returns:
        `Dataset`, or `IterableDataset` if a source streams, with the columns of `flashsloth.train.data.rows`. A stream
        has `source` beside them, the path that the row is from. Images are not decoded. The same sources and seed give
        the same rows and the same fingerprint.

    Raises:
        ValueError: If no row of a source is in a known form, or some sources have a weight and others none.
        FileNotFoundError: If a file or folder does not exist.
        ConnectionError: If the Hub cannot be reached, or the connection is lost.
    """
    weights = [source.weight for source in sources]
    without = [source.path for source in sources if source.weight is None]
    if without and len(without) < len(sources):
        raise ValueError(f"{without[0]} has no weight but others have: give each source a weight, or none")
    parts = [_open(source) for source in sources]
    is_stream = any(source.streaming for source in sources)
    if is_stream:
        parts = [_dealt(_as_stream(part, seed), process_index, num_processes) for part in parts]
        parts = [
            part.map(_with_source, fn_kwargs={"source": source.path}, features=STREAM_FEATURES)
            for part, source in zip(parts, sources, strict=True)
        ]
    if len(parts) == 1:
        mixture = parts[0]
    elif without:
        mixture = datasets.concatenate_datasets(parts)
    else:
        shares = [weight / sum(weights) for weight in weights]
        mixture = datasets.interleave_datasets(parts, shares, seed=seed, stopping_strategy="all_exhausted")
    if is_stream:
        return mixture
    for source, part in zip(sources, parts, strict=True):
        logger.info("%s: %s rows", source.path, f"{len(part):,}")
    if len(parts) > 1:
        logger.info("together: %s rows in an epoch", f"{len(mixture):,}")
    return mixture


def _as_stream(part: Dataset | IterableDataset, seed: int) -> IterableDataset:
    if isinstance(part, IterableDataset):
        return part
    return part.shuffle(seed=seed).to_iterable_dataset(num_shards=min(len(part), STREAM_SHARDS))


def _dealt(stream: IterableDataset, process_index: int, num_processes: int) -> IterableDataset:
    if stream.num_shards % num_processes == 0:
        return stream.shard(num_shards=num_processes, index=process_index)
    deal = {"process_index": process_index, "num_processes": num_processes}
    return stream.filter(_is_of_process, with_indices=True, fn_kwargs=deal)


def _is_of_process(row: Mapping, index: int, process_index: int, num_processes: int) -> bool:
    return index % num_processes == process_index


def _with_source(row: Mapping, source: str) -> dict:
    return {"source": source}


def _open(source: DataSource) -> Dataset | IterableDataset:
    path = os.path.expanduser(source.path)
    files = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    folder = _image_folder(source, path)
    kinds = sorted({Path(file).suffix.lower() for file in files})
    try:
        if os.path.isdir(path) and (files := _json_files(path, source)):
            return _open_json(files, folder, source)
        elif os.path.isdir(path):
            rows = _open_folder(path, source)
        elif kinds and set(kinds) <= set(JSON):
            _refuse(source, "name", "revision", "split")
            return _open_json(files, folder, source)
        elif kinds == [".parquet"]:
            _refuse(source, "name", "revision")
            rows = _open_parquet(files, source)
        elif kinds:
            found = " and ".join(kind or "files without an ending" for kind in kinds)
            raise ValueError(f"{source.path} is of the type {found}: it has to be .json, .jsonl or .parquet")
        elif HUB_ID.fullmatch(path) and Path(path).suffix not in (*JSON, ".parquet"):
            rows = _open_hub(path, source)
        else:
            raise FileNotFoundError(f"No such data: {source.path} is no file, folder or pattern of files that exist")
    except (DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{source.path} cannot be read: {error.__cause__ or error}") from error
    if isinstance(rows, Dataset) and not len(rows):
        raise ValueError(f"{source.path} has no rows")
    try:
        if isinstance(rows, IterableDataset):
            return _convert_stream(rows, folder, source.captions)
        return _convert(rows, folder, source.captions)
    except ValueError as error:
        raise ValueError(f"{source.path} {error}") from error


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


def _open_parquet(files: list[str], source: DataSource) -> Dataset | IterableDataset:
    try:
        return datasets.load_dataset("parquet", data_files=files, split=source.split, streaming=source.streaming)
    except (ValueError, TypeError) as error:  # a split that a file does not have, a type that `datasets` does not know
        raise ValueError(f"{source.path} cannot be read: {error}") from error


def _open_json(files: list[str], folder: str, source: DataSource) -> Dataset | IterableDataset:
    parts = [open_json(os.path.abspath(file), folder, source.captions, source.streaming) for file in files]
    return datasets.concatenate_datasets(parts)


def _json_files(path: str, source: DataSource) -> list[str]:
    """
    The files of the split, if the folder holds JSON, pictures perhaps, and nothing else; otherwise none. Splits are
    told from the files' names as `load_dataset` tells them, which would hold whole arrays in memory.
    """
    if _is_saved(path) or source.name is not None:
        return []
    splits = DataFilesDict.from_local_or_remote(get_data_patterns(path), base_path=path)
    names = [Path(file) for files in splits.values() for file in files]
    is_image_folder = any(name.name in ImageFolder.METADATA_FILENAMES for name in names)
    kinds = {name.suffix.lower() for name in names}
    if is_image_folder or not kinds & set(JSON) or kinds - {*JSON, *ImageFolder.EXTENSIONS}:
        return []
    _refuse(source, "revision")
    if source.split not in splits:
        raise ValueError(f"{source.path} has no split {source.split!r}: it has {', '.join(map(str, splits))}")
    return [file for file in splits[source.split] if Path(file).suffix.lower() in JSON]


def _is_saved(path: str) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json"))


def _open_folder(path: str, source: DataSource) -> Dataset | IterableDataset:
    _refuse(source, "revision")
    if not _is_saved(path):
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
    except HTTPError as error:
        raise download_error(f"the dataset {source.path}", error) from error
    except (FileNotFoundError, ConnectionError) as error:
        reason = (
            f"There is no file or folder {source.path}, and the Hub dataset of that name cannot be loaded: {error}"
        )
        if isinstance(error, ConnectionError) and not is_offline_mode():
            raise ConnectionError(reason) from error
        raise ValueError(reason) from error
    except ValueError as error:  # a split or a configuration that the dataset does not have
        raise ValueError(f"{source.path}: {error}") from error


def _convert(rows: Dataset, folder: str, captions: bool) -> Dataset:
    """Converts the texts of rows; the bytes of images are neither read nor copied if they stand in `images`."""
    rows = _encoded(_read_columns(rows))
    pictures = None
    if _has_encoded_images(rows):
        pictures = _with_features(rows.select_columns("images"), Features({"images": FEATURES["images"]}))
        counts = pc.list_value_length(rows.data.column("images"))
        rows = rows.remove_columns("images").add_column(COUNT, counts.to_pylist())
        function, features = _counted_row, Features({key: FEATURES[key] for key in FEATURES if key != "images"})
    else:
        function, features = make_row, FEATURES

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
    problems = texts.data.column("problem")
    if not problems.null_count:
        raise ValueError(f"has no row in a known form. Row 0: {problems[0]}")
    if pictures is None:
        return texts
    return datasets.concatenate_datasets([pictures, texts], axis=1).select_columns(list(FEATURES))


def _convert_stream(rows: IterableDataset, folder: str, captions: bool) -> IterableDataset:
    if rows.features is not None:
        rows = _read_columns(rows).decode(False)
    first = next(iter(rows), None)
    if first is None:
        raise ValueError("has no rows")
    return rows.map(
        _stream_row,
        fn_kwargs={"folder": folder, "captions": captions},
        remove_columns=list(first),
        features=FEATURES,
    )


def _read_columns(rows: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The rows without columns that are of no use, which could hold whatever cannot be decoded."""
    names = rows.column_names
    if not set(names) & set(COLUMNS):
        raise ValueError(f"has the columns {', '.join(names)}; it needs {FORMS}")
    return rows.select_columns([name for name in names if name in ("id", *IMAGE_COLUMNS, *COLUMNS)])


def _encoded(rows: Dataset) -> Dataset:
    """Says of all images that they are not to be decoded. `cast_column` would copy the bytes of every one."""
    return _with_features(rows, Features({name: _encoded_feature(feature) for name, feature in rows.features.items()}))


def _encoded_feature(feature):
    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, (List, LargeList)):
        return replace(feature, feature=_encoded_feature(feature.feature))
    return feature


def _with_features(rows: Dataset, features: Features) -> Dataset:
    info = rows.info.copy()
    info.features = features
    return Dataset(rows.data, info=info, split=rows.split, fingerprint=rows._fingerprint)


def _has_encoded_images(rows: Dataset) -> bool:
    """
    Whether `images` can be taken over: lists of files' bytes as `datasets` stores them. Lists that are missing, paths,
    which may start from a folder, and other types need a look at each row, as does a second column of images.
    """
    names = [name for name in IMAGE_COLUMNS if name in rows.column_names]
    if names != ["images"] or rows.features.arrow_schema.field("images").type != ARROW_IMAGES:
        return False
    images = rows.data.column("images")
    if images.null_count:
        return False
    paths, contents = (pc.struct_field(pc.list_flatten(images), name) for name in ("path", "bytes"))
    return not pc.any(pc.and_(pc.is_valid(paths), pc.is_null(contents))).as_py()


def _stream_row(record: Mapping, folder: str, captions: bool) -> dict:
    row = make_row(record, 0, folder, captions)
    if record.get("id") is None:
        # Rows have no numbers where several files are read at once, in another order each time.
        row["id"] = hashlib.sha256(repr((row["messages"], row["problem"])).encode()).hexdigest()[:12]
    # `map` of a stream takes its rows as they come, and does not encode them.
    return FEATURES.encode_example(row)


def _counted_row(record: Mapping, index: int, folder: str, captions: bool) -> dict:
    record = dict(record)
    return text_columns(record, index, record.pop(COUNT), captions)
