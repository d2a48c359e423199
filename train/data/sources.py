# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Opens the data of a stage: files, folders and Hub datasets, one or several mixed, as one set or stream of rows."""

import contextlib
import glob
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value
from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from httpx2 import HTTPError
from huggingface_hub import is_offline_mode
from huggingface_hub.dataclasses import strict

from flashsloth.folders.downloads import download_error
from flashsloth.train.data.formats import FEATURES
from flashsloth.train.data.rows import convert_json, convert_stream, convert_table
from flashsloth.train.data.wording import show_address


logger = logging.getLogger(__name__)

JSON = (".json", ".jsonl")
PARQUET = ".parquet"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
STREAM_FEATURES = Features({**FEATURES, "source": Value("string")})
# A set on disk that is mixed into a stream is split into so many shards, for as many workers.
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
        captions (`bool`, *optional*, defaults to `False`): Whether to remove the texts of the user and leave the
            images alone: image in, caption out, as stage 1 is trained.

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
                f"the weight of {self.shown} is {self.weight}: it has to be a number above 0, or leave it out"
            )

    @property
    def local_path(self) -> str:
        """The path, with the home folder in place of `~`."""
        return os.path.expanduser(self.path)

    @property
    def shown(self) -> str:
        """The path in messages and files: without the secrets of an address."""
        return show_address(self.path)

    @property
    def local_files(self) -> list[str]:
        """The file or folder at `path`, or the files that match it as a pattern; none of a dataset on the Hub."""
        path = self.local_path
        return [path] if os.path.exists(path) else sorted(glob.glob(_pattern(path), recursive=True))


def _pattern(path: str) -> str:
    """A pattern of files, in which the folders that exist by their whole names stand for themselves."""
    folder, rest = path, []
    while folder and not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder, name = os.path.split(folder)
        rest.insert(0, name)
    return os.path.join(glob.escape(folder), *rest)


def name_of(source: DataSource) -> str:
    """The name of a source that is published with a model: an id on the Hub, or the last part of a local path."""
    return Path(source.local_path).name if source.local_files else source.path


def load_data(
    sources: list[DataSource],
    seed: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> Dataset | IterableDataset:
    """
    Opens the sources and mixes them.

    Without weights the rows of all sources follow each other. With weights each row is from a source that is drawn by
    its weight, until every source is used up; sources that are used up earlier start again.

    Args:
        sources (`list[DataSource]`): What to open.
        seed (`int`): Decides the mixture.
        process_index (`int`, *optional*, defaults to 0), num_processes (`int`, *optional*, defaults to 1): Which shard
            of a stream to open. If the files of a source can be shared out evenly, each process reads files of its
            own; otherwise each reads all files and keeps one row in `num_processes`. A set is opened whole.

    Returns:
        `Dataset`, or `IterableDataset` if a source streams, with the columns of `flashsloth.train.data.formats`. Rows
        of a stream have a column `source` as well, the path of their source. Images are not decoded. The same sources
        and seed give the same rows and the same fingerprint.

    Raises:
        ValueError: If no row of a source has a known form, or some sources have a weight and others none.
        FileNotFoundError: If a file or folder does not exist.
        ConnectionError: If the Hub cannot be reached, or the connection is lost.
    """
    unweighted = _unweighted(sources)
    parts = [_open(source) for source in sources]
    is_stream = any(source.streaming for source in sources)
    if is_stream:
        parts = [
            _shard(_as_stream(part, seed), process_index, num_processes).map(
                _source_column, fn_kwargs={"source": source.shown}, features=STREAM_FEATURES
            )
            for part, source in zip(parts, sources, strict=True)
        ]
    if len(parts) == 1:
        mixture = parts[0]
    elif unweighted:
        mixture = datasets.concatenate_datasets(parts)
    else:
        total = sum(source.weight for source in sources)
        shares = [source.weight / total for source in sources]
        mixture = datasets.interleave_datasets(parts, shares, seed=seed, stopping_strategy="all_exhausted")
    if is_stream:
        return mixture
    for source, part in zip(sources, parts, strict=True):
        logger.info("%s: %s rows", source.shown, f"{len(part):,}")
    if len(parts) > 1:
        logger.info("together: %s rows in an epoch", f"{len(mixture):,}")
    return mixture


def check_sources(sources: list[DataSource]) -> None:
    """
    Checks what can be known of sources without reading a row: a run loads its model between this and `load_data`.

    Raises:
        The errors of [`load_data`].
    """
    _unweighted(sources)
    for source in sources:
        _image_folder(source)
        if _is_on_hub(source):
            with _hub_errors(source), _quiet_cards():
                datasets.load_dataset_builder(source.path, source.name, revision=source.revision)


def _unweighted(sources: list[DataSource]) -> list[str]:
    unweighted = [source.shown for source in sources if source.weight is None]
    if unweighted and len(unweighted) < len(sources):
        raise ValueError(f"{unweighted[0]} has no weight but others have: give each source a weight, or none")
    return unweighted


def _as_stream(part: Dataset | IterableDataset, seed: int) -> IterableDataset:
    if isinstance(part, IterableDataset):
        return part
    # In memory: the new order would be written into the folder of the set, which would no longer be the same data.
    return part.shuffle(seed=seed, keep_in_memory=True).to_iterable_dataset(num_shards=min(len(part), STREAM_SHARDS))


def _shard(stream: IterableDataset, process_index: int, num_processes: int) -> IterableDataset:
    # `datasets.distributed.split_dataset_by_node` splits a mixture, whose number of shards is that of its smallest
    # source, after it has been shuffled; here each source is split, by its files if it has enough of them.
    if stream.num_shards % num_processes == 0:
        return stream.shard(num_shards=num_processes, index=process_index)
    assigned = {"process_index": process_index, "num_processes": num_processes}
    return stream.filter(_is_of_process, with_indices=True, fn_kwargs=assigned)


def _is_of_process(row: Mapping, index: int, process_index: int, num_processes: int) -> bool:
    return index % num_processes == process_index


def _source_column(row: Mapping, source: str) -> dict:
    return {"source": source}


# One source


def _open(source: DataSource) -> Dataset | IterableDataset:
    folder = _image_folder(source)
    try:
        if files := _json_files(source):
            parts = [convert_json(os.path.abspath(file), folder, source.captions, source.streaming) for file in files]
            return datasets.concatenate_datasets(parts)
        with _quiet_cards():
            raw_rows = _open_table(source)
    except (DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{source.shown} cannot be read: {error.__cause__ or error}") from error
    convert = convert_stream if isinstance(raw_rows, IterableDataset) else convert_table
    try:
        return convert(raw_rows, folder, source.captions)
    except ValueError as error:
        raise ValueError(f"{source.shown} {error}") from error


def _image_folder(source: DataSource) -> str:
    """The folder that relative paths of images start from: the given one, or where the rows are."""
    if source.image_folder is None:
        path = source.local_path
        return os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path))
    folder = os.path.abspath(os.path.expanduser(source.image_folder))
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"The image_folder of {source.shown} does not exist: {show_address(source.image_folder)}. The "
            "paths of the rows' images start from it."
        )
    return folder


def _json_files(source: DataSource) -> list[str]:
    """The JSON files of a source, if it is such a file, a pattern of them or a folder of them; otherwise none."""
    if os.path.isdir(source.local_path):
        return _json_files_of_folder(source)
    if not source.local_files or not _kinds(source) <= set(JSON):
        return []
    _refuse(source, name=source.name, revision=source.revision, split=source.split)
    return source.local_files


def _kinds(source: DataSource) -> set[str]:
    return {Path(file).suffix.lower() for file in source.local_files}


def _json_files_of_folder(source: DataSource) -> list[str]:
    """
    The files of the split, if the folder holds JSON, images perhaps, and nothing else. The names of the files say
    which split they belong to, as they do for `load_dataset`, which would hold whole arrays in memory.
    """
    folder = source.local_path
    if _is_saved(folder) or source.name is not None:
        return []
    splits = _files_by_split(folder)
    paths = [Path(file) for files in splits.values() for file in files]
    is_image_folder = any(path.name in ImageFolder.METADATA_FILENAMES for path in paths)
    kinds = {path.suffix.lower() for path in paths}
    if is_image_folder or not kinds & set(JSON) or kinds - {*JSON, *ImageFolder.EXTENSIONS}:
        return []
    _refuse(source, revision=source.revision)
    if source.split not in splits:
        raise ValueError(f"{source.shown} has no split {source.split!r}: it has {', '.join(map(str, splits))}")
    return [file for file in splits[source.split] if Path(file).suffix.lower() in JSON]


def _files_by_split(folder: str) -> dict[str, list[str]]:
    # `datasets` takes a folder for a pattern, as it does all paths.
    base = glob.escape(folder)
    return DataFilesDict.from_local_or_remote(get_data_patterns(base), base_path=base)


def _refuse(source: DataSource, **settings: str | None) -> None:
    for setting, value in settings.items():
        if value not in (None, "train"):
            raise ValueError(f"{source.shown} is local, and has no {setting}: leave out {setting} ({value})")


def _open_table(source: DataSource) -> Dataset | IterableDataset:
    if os.path.isdir(source.local_path):
        return _open_folder(source)
    return _open_hub(source) if _is_on_hub(source) else _open_parquet(source)


def _is_on_hub(source: DataSource) -> bool:
    """Whether a source is the name of a dataset on the Hub; raises for what is neither that nor local data."""
    if os.path.isdir(source.local_path):
        return False
    kinds = _kinds(source)
    if kinds == {PARQUET} or kinds and kinds <= set(JSON):
        return False
    if kinds:
        found = " and ".join(kind or "files without an ending" for kind in sorted(kinds))
        raise ValueError(f"{source.shown} is of the type {found}: it has to be .json, .jsonl or .parquet")
    if HUB_ID.fullmatch(source.path) and Path(source.path).suffix not in (*JSON, PARQUET):
        return True
    raise FileNotFoundError(f"No such data: {source.shown} is no file, folder or pattern of files that exist")


def _is_saved(folder: str) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("state.json", "dataset_dict.json"))


def _open_folder(source: DataSource) -> Dataset | IterableDataset:
    _refuse(source, revision=source.revision)
    if not _is_saved(source.local_path):
        files = None
        if glob.escape(source.local_path) != source.local_path:
            files = {
                split: list(map(glob.escape, files)) for split, files in _files_by_split(source.local_path).items()
            }
        return datasets.load_dataset(
            source.local_path, source.name, data_files=files, split=source.split, streaming=source.streaming
        )
    raw_rows = datasets.load_from_disk(source.local_path)
    if isinstance(raw_rows, DatasetDict):
        if source.split not in raw_rows:
            raise ValueError(f"{source.shown} has no split {source.split!r}: it has {', '.join(raw_rows)}")
        raw_rows = raw_rows[source.split]
    return raw_rows


def _open_parquet(source: DataSource) -> Dataset | IterableDataset:
    _refuse(source, name=source.name, revision=source.revision)
    settings = {"split": source.split, "streaming": source.streaming}
    try:
        return datasets.load_dataset("parquet", data_files=list(map(glob.escape, source.local_files)), **settings)
    except (ValueError, TypeError) as error:  # a split that a file does not have, a type that `datasets` does not know
        raise ValueError(f"{source.shown} cannot be read: {error}") from error


def _open_hub(source: DataSource) -> Dataset | IterableDataset:
    with _hub_errors(source):
        return datasets.load_dataset(
            source.path, source.name, split=source.split, revision=source.revision, streaming=source.streaming
        )


@contextlib.contextmanager
def _quiet_cards() -> Iterator[None]:
    """Leaves out what the Hub's library says of a README without metadata, which data does not need."""
    cards = logging.getLogger("huggingface_hub.repocard")
    cards.addFilter(_is_no_card)
    try:
        yield
    finally:
        cards.removeFilter(_is_no_card)


def _is_no_card(record: logging.LogRecord) -> bool:
    return "Repo card metadata block was not found" not in record.getMessage()


@contextlib.contextmanager
def _hub_errors(source: DataSource) -> Iterator[None]:
    """Turns the errors of a dataset on the Hub into ours."""
    try:
        yield
    except HTTPError as error:
        raise download_error(f"the dataset {source.shown}", error) from error
    except (FileNotFoundError, ConnectionError) as error:
        reason = (
            f"There is no file or folder {source.shown}, and the Hub dataset of that name cannot be loaded: {error}"
        )
        if isinstance(error, ConnectionError) and not is_offline_mode():
            raise ConnectionError(reason) from error
        raise ValueError(reason) from error
    except ValueError as error:  # a split or a configuration that the dataset does not have
        raise ValueError(f"{source.shown}: {error}") from error
