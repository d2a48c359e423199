# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Where rows of questions come from: JSON lines, Parquet, a folder of images, or a data set on the Hub. A source is read
row by row, in an order that never changes, so that a row is known by its number.
"""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import pyarrow
from datasets import IterableDataset, get_dataset_split_names, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from httpx2 import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from pyarrow.parquet import ParquetFile

from flashsloth.folders.downloads import IMAGE_SUFFIXES, download_error
from flashsloth.folders.errors import one_line


logger = logging.getLogger(__name__)

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
KINDS = {"Parquet files": PARQUET, "JSON lines": JSON_LINES, "images": IMAGE_SUFFIXES}
IMAGE = "image"  # the column of a folder of images
READ_ROWS = 64  # of a Parquet file at once
READ_BYTES = 1 << 20  # of its column at once; a whole one may hold the images of thousands of rows


@dataclass(frozen=True)
class Source(ABC):
    """
    Rows, in an order that never changes.

    Args:
        name (`str`): Its name in messages and in the report.
        digest (`str`): A hash of the rows, or the commit that they are of.
        columns (`tuple[str, ...]`): The names of the columns; a row of JSON lines may lack some.
        num_rows (`int`, *optional*): How many there are, where that is known before they are read.
        schema (`pyarrow.Schema`, *optional*): Types of the columns, where they are known before they are read.
        folder (`Path`, *optional*): What relative paths of images start from; without it rows may name no local files.
        is_folder (`bool`, *optional*, defaults to `False`): Whether the rows are all that is in `folder`.
        files (`tuple[Path, ...]`, *optional*): What is read more than once, in the order of the rows.
        stamps (`tuple[tuple[int, ...], ...]`, *optional*): What [`_stamp`] gave for each file before it was read.
    """

    name: str
    digest: str
    columns: tuple[str, ...]
    num_rows: int | None
    schema: pyarrow.Schema | None
    folder: Path | None
    is_folder: bool = field(default=False, kw_only=True)
    files: tuple[Path, ...] = field(default=(), kw_only=True)
    stamps: tuple[tuple[int, ...], ...] = field(default=(), kw_only=True)

    @abstractmethod
    def rows(self, columns: Sequence[str], start: int = 0) -> Iterator[dict]:
        """
        Reads the rows from the one of number `start`, with these columns at least.

        Raises:
            ValueError: If a value is damaged; the message names its column and row.
            OSError: If they can no longer be read.
        """

    def check_unchanged(self) -> None:
        """
        Raises:
            ValueError: If a file is no longer the one that was opened.
        """
        for file, stamp in zip(self.files, self.stamps, strict=True):
            if _stamp(file) != stamp:
                raise ValueError(
                    f"{file} was changed while its rows were answered. Put it back as it was, and the same command "
                    "goes on; for its new rows name another --output."
                )

    @property
    def byte_columns(self) -> list[str]:
        """The columns that hold bytes, such as encoded images."""
        return [field.name for field in self.schema or () if _holds_bytes(field.type)]


def open_source(questions: Sequence[str], subset: str | None = None, split: str | None = None) -> Source:
    """
    Opens the questions that a user names.

    Args:
        questions (`Sequence[str]`): Files of one kind, one folder, or one data set on the Hub, `owner/name` or
            `owner/name@revision`.
        subset (`str`, *optional*), split (`str`, *optional*): Of a data set on the Hub.

    Raises:
        ValueError: If they are of different kinds, damaged, or no questions.
        FileNotFoundError: If there is no such file, folder or data set.
        ConnectionError: If the Hub cannot be reached.
    """
    paths = [Path(name) for name in questions]
    missing = [name for name, path in zip(questions, paths, strict=True) if not path.exists()]
    if len(questions) == 1 and missing and _can_be_repo_id(questions[0]):
        return open_hub(questions[0], subset, split)
    if missing:
        raise FileNotFoundError(
            f"No questions at '{missing[0]}': give files, a folder, or a Hub id such as owner/name."
        )
    for option, value in {"subset": subset, "split": split}.items():
        if value is not None:
            raise ValueError(f"'{questions[0]}' is local, and has no {option}: leave out --{option} ({value}).")
    if any(path.is_dir() for path in paths):
        return replace(_open_folder(paths), is_folder=True)
    kinds = {path.suffix.lower() for path in paths}
    if kinds <= set(JSON_LINES):
        return open_json_lines(paths)
    if kinds <= set(PARQUET):
        return open_parquet(paths)
    raise ValueError(
        f"The questions are files of the type {' and '.join(sorted(kind or 'none' for kind in kinds))}: give files of "
        f"one type, .jsonl or .parquet, or a folder."
    )


def _can_be_repo_id(name: str) -> bool:
    is_file = name.lower().endswith((*JSON_LINES, *PARQUET, *IMAGE_SUFFIXES))
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not is_file


def _open_folder(paths: list[Path]) -> Source:
    """A folder's Parquet files or JSON lines, and where there are none of them its images."""
    if len(paths) > 1:
        raise ValueError(f"{len(paths)} folders or files are given, a folder among them: give one folder, or files.")
    folder = paths[0]
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _is_hidden(file, folder))
    found = {kind: [file for file in files if file.suffix.lower() in suffixes] for kind, suffixes in KINDS.items()}
    tables, lines, images = found.values()
    if tables and lines:
        raise ValueError(f"{folder} holds Parquet files and JSON lines: name the files of one kind.")
    if tables:
        return open_parquet(tables, folder)
    if lines:
        return open_json_lines(lines, folder)
    if not images:
        raise ValueError(f"{folder} holds neither {', nor '.join(KINDS)}.")
    if others := Counter(file.suffix or "no ending" for file in set(files) - set(images)):
        kinds = ", ".join(f"{count:,} of {suffix}" for suffix, count in others.most_common())
        logger.info("Files that are skipped, as they are no images that are read here: %s", kinds)
    return open_images(images, folder)


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes with the content of a file, without reading it."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


# JSON lines


@dataclass(frozen=True)
class JsonLines(Source):
    """Objects, one a line; empty lines are skipped."""

    def rows(self, columns: Sequence[str], start: int = 0) -> Iterator[dict]:
        lines = (line for file in self.files for _, line in _lines(file))
        return (json.loads(line) for line in islice(lines, start, None))


def open_json_lines(files: Sequence[Path], folder: Path | None = None) -> JsonLines:
    """
    Reads all lines once, and keeps none.

    Args:
        files (`Sequence[Path]`): The files.
        folder (`Path`, *optional*): What relative paths of images start from; that of the first file if unset.

    Raises:
        ValueError: If a line is no JSON object, or if there is none.
    """
    digest, columns, count, stamps = hashlib.sha256(), {}, 0, tuple(map(_stamp, files))
    for file in files:
        for number, line in _lines(file):
            digest.update(line.strip() + b"\n")
            columns |= dict.fromkeys(_object_in(line, file, number))
            count += 1
    if not count:
        raise ValueError(f"{files[0]} holds no rows.")
    folder = (folder or files[0].parent).absolute()
    absolute = tuple(file.absolute() for file in files)
    return JsonLines(
        _name_of(files), digest.hexdigest(), tuple(columns), count, None, folder, files=absolute, stamps=stamps
    )


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, with their numbers from 1."""
    with file.open("rb") as content:
        for number, line in enumerate(content, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # the mark that some editors write
            if line.strip():
                yield number, line


def _object_in(line: bytes, file: Path, number: int) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}, line {number} is not JSON: {one_line(error)}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{file}, line {number} holds a {type(row).__name__}: each line must be one JSON object.")
    return row


def _name_of(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"


# Parquet


@dataclass(frozen=True)
class Parquet(Source):
    """Parquet files of one schema."""

    def rows(self, columns: Sequence[str], start: int = 0) -> Iterator[dict]:
        for file in self.files:
            with ParquetFile(file, buffer_size=READ_BYTES) as table:
                yield from _rows_of(table, columns, start, file)
                start = max(0, start - table.metadata.num_rows)


def _rows_of(table: ParquetFile, columns: Sequence[str], start: int, file: Path) -> Iterator[dict]:
    """The rows of a file from one on; groups of rows before it are not read."""
    groups, before = [], 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if groups or start < size:
            groups.append(group)
        else:
            start -= size
            before += size
    batches = table.iter_batches(READ_ROWS, row_groups=groups, columns=list(columns)) if groups else ()
    return islice(_rows_in(batches, before, file), start, None)


def _rows_in(batches: Iterable[pyarrow.RecordBatch], before: int, file: Path) -> Iterator[dict]:
    """The rows of batches, of which the first follows so many rows of the file."""
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except Exception as error:  # of whatever library makes values of Python: pytz, pandas, zoneinfo
            raise _damaged(batch, before, file, error) from error
        yield from rows
        before += batch.num_rows


def _damaged(batch: pyarrow.RecordBatch, before: int, file: Path, error: Exception) -> ValueError:
    """The error of a batch, with the column and row that it is of."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for row, value in enumerate(column, before + 1):
            try:
                value.as_py()
            except Exception as problem:
                shown = f"{type(problem).__name__}: {one_line(problem)}"
                return ValueError(f"{file}, column '{name}', row {row} cannot be read ({shown}): correct it.")
    return ValueError(f"{file} cannot be read: {one_line(error)}")


def open_parquet(files: Sequence[Path], folder: Path | None = None) -> Parquet:
    """
    Reads the schemas of Parquet files, and hashes the files.

    Args:
        files (`Sequence[Path]`): The files.
        folder (`Path`, *optional*): What relative paths of images start from; that of the first file if unset.

    Raises:
        ValueError: If a file is damaged, its schema is not that of the first, two columns have one name, or if there
            are no rows.
    """
    digest, schemas, count, stamps = hashlib.sha256(), [], 0, tuple(map(_stamp, files))
    for file in files:
        try:
            with ParquetFile(file) as table:
                schemas.append(table.schema_arrow.remove_metadata())
                count += table.metadata.num_rows
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file} cannot be read as Parquet: {one_line(error)}") from error
        if schemas[-1] != schemas[0]:
            raise ValueError(f"{file} has other columns or types than {files[0]}: answer them one after the other.")
        names = Counter(schemas[-1].names)
        if twice := next((name for name, times in names.items() if times > 1), None):
            raise ValueError(f"{file} has {names[twice]} columns '{twice}': rename all but one.")
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    if not count:
        raise ValueError(f"{files[0]} holds no rows.")
    folder = (folder or files[0].parent).absolute()
    absolute, columns = tuple(file.absolute() for file in files), tuple(schemas[0].names)
    return Parquet(
        _name_of(files), digest.hexdigest(), columns, count, schemas[0], folder, files=absolute, stamps=stamps
    )


# A folder of images


@dataclass(frozen=True)
class Images(Source):
    """
    A row for each image, with its path in the folder.

    Args:
        paths (`tuple[str, ...]`): The paths.
    """

    paths: tuple[str, ...]

    def rows(self, columns: Sequence[str], start: int = 0) -> Iterator[dict]:
        return ({IMAGE: path} for path in self.paths[start:])


def open_images(files: Sequence[Path], folder: Path) -> Images:
    """The images of a folder; of their contents only the sizes are looked at."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode(errors="surrogatepass"))
    schema = pyarrow.schema({IMAGE: pyarrow.string()})
    paths = tuple(file.relative_to(folder).as_posix() for file in files)
    return Images(folder.name, digest.hexdigest(), (IMAGE,), len(paths), schema, folder.absolute(), paths)


# A data set on the Hub


@dataclass(frozen=True)
class HubDataset(Source):
    """
    A split of a data set on the Hub, which is streamed.

    Args:
        repo_id (`str`): The data set; `digest` is its commit.
        subset (`str`, *optional*): The subset, if it has several.
        split (`str`): The split.
    """

    repo_id: str
    subset: str | None
    split: str

    def rows(self, columns: Sequence[str], start: int = 0) -> Iterator[dict]:
        stream = _stream(self.repo_id, self.subset, self.split, self.digest)
        if stream.features is not None:
            stream = stream.select_columns(list(columns))
        return iter(stream.skip(start))


def open_hub(name: str, subset: str | None = None, split: str | None = None) -> HubDataset:
    """
    Finds a data set on the Hub. All its rows will be of the commit that it has now.

    Args:
        name (`str`): `owner/name` or `owner/name@revision`.
        subset (`str`, *optional*): The subset; needed if there are several.
        split (`str`, *optional*): The split; needed if there are several.

    Raises:
        ValueError: If there is no such data set, subset or split, or one has to be chosen.
        ConnectionError: If the Hub cannot be reached.
    """
    repo_id, _, revision = name.partition("@")
    try:
        commit = HfApi().dataset_info(repo_id, revision=revision or None).sha
        builder = load_dataset_builder(repo_id, subset, revision=commit)
        splits = get_dataset_split_names(repo_id, builder.config.name, revision=commit)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError, DatasetNotFoundError) as error:
        raise ValueError(f"{name} is neither here nor a data set on the Hub: {one_line(error)}") from error
    except HTTPError as error:
        raise download_error(f"the data set {name}", error) from error
    except ValueError as error:  # a subset has to be chosen, or is not there
        raise ValueError(f"{name}: {one_line(error)} Choose one by --subset.") from error
    split = split or (splits[0] if len(splits) == 1 else None)
    if split not in splits:
        raise ValueError(f"{name} has the splits {', '.join(splits)}: name one of them by --split.")
    described = builder.info.splits or {}
    num_rows = described[split].num_examples if split in described else None
    stream = _stream(repo_id, subset, split, commit)
    features = stream.features
    columns = tuple(features) if features is not None else tuple(next(iter(stream), {}))
    schema = None if features is None else features.arrow_schema.remove_metadata()
    shown = ", ".join(part for part in (repo_id, subset, split) if part)
    return HubDataset(shown, commit, columns, num_rows or None, schema, None, repo_id, subset, split)


def _stream(repo_id: str, subset: str | None, split: str, commit: str) -> IterableDataset:
    """The rows of a split, with images as they are encoded."""
    stream = load_dataset(repo_id, subset, split=split, revision=commit, streaming=True)
    return stream if stream.features is None else stream.decode(False)


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    """Whether a type is one of bytes, or has one inside."""
    is_bytes = pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
    is_bytes = is_bytes or pyarrow.types.is_fixed_size_binary(kind)
    return is_bytes or any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
