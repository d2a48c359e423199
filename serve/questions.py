# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What is asked of a row: its question, and its images as they are encoded or as addresses. Files are read where the rows
are, so that the machines that answer need none of them; a row that cannot be asked says why.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import fsspec

from flashsloth.folders.errors import one_line
from flashsloth.image_reading_flashsloth import (
    DATA,
    FILE,
    WEB,
    decode_base64,
    is_address,
    read_data_url,
    without_secrets,
)
from flashsloth.serve.sources import Source


logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "images")
FILE_NAMES = ("file_name", "file_names")  # the ends of such columns in the metadata.jsonl of `datasets`' ImageFolder
# Paths of a data set that is streamed from the Hub, some of them within archives.
HUB_PATH = re.compile(r"((zip|tar|gzip|bz2|xz|zstd|lz4)://[^:]*::)*hf://")
MAX_NAME = 100  # characters of a name that are shown


@dataclass(frozen=True)
class Row:
    """
    A row to ask.

    Args:
        index (`int`): Its number, from 0.
        question (`str`): The question; empty if the row cannot be asked.
        images (`tuple[bytes | str, ...]`): Encoded images, and addresses of images on the web.
        error (`str`, *optional*): Why the row cannot be asked.
    """

    index: int
    question: str = ""
    images: tuple[bytes | str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Questions:
    """
    The questions of a source.

    Args:
        source ([`~flashsloth.serve.sources.Source`]): The rows.
        question_column (`str`): The column of the questions.
        image_column (`str`, *optional*): The column of the images, if there is one.
        question (`str`, *optional*): The question of all rows, in place of a column.
        images (`Path`, *optional*): What relative paths of images start from; the source's own folder if unset.
    """

    source: Source
    question_column: str
    image_column: str | None
    question: str | None = None
    images: Path | None = None

    def rows(self, done: Sequence[int]) -> Iterator[Row]:
        """
        The rows that are left to ask, one after the other.

        Args:
            done (`Sequence[int]`): For each of the first rows whether it is answered.
        """
        start = next((index for index, is_done in enumerate(done) if not is_done), len(done))
        columns = [column for column in (self.image_column,) if column]
        columns += [] if self.question is not None else [self.question_column]
        for index, fields in enumerate(self.source.rows(columns, start), start):
            if index >= len(done) or not done[index]:
                yield self._row(index, fields)

    def _row(self, index: int, fields: dict) -> Row:
        try:
            question = _check_question(fields.get(self.question_column)) if self.question is None else self.question
            images = read_sources(fields.get(self.image_column), self.images or self.source.folder)
        except (ValueError, OSError) as error:
            message = one_line(error).encode(errors="backslashreplace").decode()  # may name a file by half a character
            return Row(index, error=message)
        return Row(index, question, tuple(images))


def select_columns(
    source: Source,
    question_column: str | None = None,
    image_column: str | None = None,
    question: str | None = None,
    images: Path | None = None,
) -> Questions:
    """
    Finds the columns that hold questions and images.

    Args:
        source ([`~flashsloth.serve.sources.Source`]): The rows.
        question_column (`str`, *optional*): The column of the questions; "question" if unset.
        image_column (`str`, *optional*): The column of the images; if unset "image", "images" or one of file names, as
            `datasets` has them in a `metadata.jsonl`, where there is one.
        question (`str`, *optional*): One question for all rows.
        images (`Path`, *optional*): What relative paths of images start from; the source's own folder if unset.

    Raises:
        ValueError: If a column is missing, it is unclear which one is meant, or `images` is no folder.
    """
    has = f"It has {', '.join(source.columns) or 'no columns'}."
    column = question_column or "question"
    if question is None and column not in source.columns:
        raise ValueError(
            f"{source.name} has no column '{column}': name the one of the questions by --question-column, or give one "
            f"--question for all rows. {has}"
        )
    if question is not None and (question_column or column in source.columns):
        raise ValueError(f"{source.name} has questions, in the column '{column}': leave out --question.")
    if image_column and image_column not in source.columns:
        raise ValueError(f"{source.name} has no column '{image_column}': correct --image-column. {has}")
    found = [name for name in source.columns if name in IMAGE_COLUMNS or name.endswith(FILE_NAMES)]
    if not image_column and len(found) > 1:
        raise ValueError(f"{source.name} has the columns {' and '.join(found)}: choose one by --image-column.")
    if not image_column and not found:
        logger.info("%s has no column of images: its questions are asked without any", source.name)
    if images is not None and not images.is_dir():
        raise ValueError(f"--images names no folder: '{images}'.")
    return Questions(source, column, image_column or next(iter(found), None), question, images and images.absolute())


def _check_question(question) -> str:
    if question is None:
        raise ValueError("The row has no question.")
    if not isinstance(question, str):
        raise ValueError(f"The question is a {type(question).__name__}, not text.")
    if not question.strip():
        raise ValueError("The question is empty.")
    _check_characters(question, "question")
    return question


def _check_characters(text: str, kind: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The {kind} holds half a character: {error}.") from error


def read_sources(value, folder: Path | None) -> list[bytes | str]:
    """
    What the images of a row are: encoded images, and addresses of images on the web.

    Args:
        value: A path, URL, data URL or base64 text; bytes; a dict with `bytes` or `path`; a list of these; or `None`.
        folder (`Path`, *optional*): What relative paths start from. Without it no local file may be named.

    Raises:
        ValueError: If one is none of these, or no such file.
        OSError: If a file cannot be read.
    """
    if value is None or value == "":
        return []
    if not isinstance(value, (list, tuple)):
        return [_source(value, folder, "The image")]
    return [_source(item, folder, f"Image {number} of {len(value)}") for number, item in enumerate(value, 1)]


def _source(value, folder: Path | None, name: str) -> bytes | str:
    if isinstance(value, dict):  # as Parquet files of `datasets` have it
        content, path = value.get("bytes"), value.get("path")
        value = path if content is None else content
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if not isinstance(value, str):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {kind}: it must be a path, a URL, a data URL, base64 text or bytes.")
    text = value.strip()
    if text.lower().startswith(WEB):
        _check_characters(text, "address of an image")
        return text
    shown = without_secrets(text)
    shown = f"{name} '{shown if len(shown) <= MAX_NAME else shown[:MAX_NAME] + '...'}'"
    if text.lower().startswith(DATA):
        return read_data_url(text, shown)
    if folder is None:
        if HUB_PATH.match(text):
            with fsspec.open(text, "rb") as file:
                return file.read()
        return _decoded(text, f"{shown} is neither a URL nor base64 data, which rows of the Hub must hold.")
    is_file_url = text.lower().startswith(FILE)
    if is_address(text) and not is_file_url:
        raise ValueError(f"{shown} cannot be fetched: its scheme is neither http, https, data nor file.")
    path = Path(url2pathname(urlparse(text).path)) if is_file_url else folder / text
    if os.path.isfile(path):  # says no, too, where a text is too long for a path, or holds what none may hold
        return path.read_bytes()
    return _decoded(text, f"{shown} does not exist, and is neither a URL nor base64 data.")


def _decoded(text: str, problem: str) -> bytes:
    try:
        content = decode_base64(text)
    except ValueError as error:
        raise ValueError(problem) from error
    if not content:
        raise ValueError(problem)
    return content
