# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Validates rows: each is read as training would read it, images included. Broken rows stop a run, or are skipped as a
whole; nothing takes their place. A set is validated once, and the result is kept in the run's output folder. The rows
of a stream are validated as they come (`flashsloth.train.data.streams.StreamFilter`).
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from flashsloth.image_reading_flashsloth import ImageError
from flashsloth.processing_flashsloth import EMPTY_TURN, ConversationError, FlashSlothProcessor
from flashsloth.train.data.broken_rows import (
    SKIPPED_FILE,
    BrokenRow,
    report,
    skipped_rows,
    write_jsonl,
    write_lines,
)
from flashsloth.train.data.images import file_sizes, read_row_image
from flashsloth.train.data.wording import hide_secrets, shorten


logger = logging.getLogger(__name__)

# What may be wrong with a row, besides the reasons of a `ConversationError` and an `ImageError`.
MALFORMED = "malformed row"
NO_ASSISTANT = "no assistant turn"
WRONG_COUNT = "placeholder count differs"
CUT = "answer cut by max_length"

ROWS_PER_TASK = 32
RESULT_FILE = "data_check.jsonl"
SIZES_FILE = "data_check.npy"


class RowValidator:
    """
    Validates rows; as the `collate_fn` of a `DataLoader`, in its workers.

    Args:
        processor ([`FlashSlothProcessor`]): Of the model that is to be trained.
        max_length (`int`, *optional*): Number of tokens that training cuts rows to; the number of positions of the
            decoder if unset.
        hd (`bool`): Whether images are read in high definition, which takes more tokens.
    """

    def __init__(self, processor: FlashSlothProcessor, max_length: int | None, hd: bool):
        positions = processor.tokenizer.model_max_length
        self.processor = processor
        self.max_tokens = positions if max_length is None else min(max_length, positions)
        self.hd = hd

    def __call__(self, rows: list[dict]) -> tuple[int, list[BrokenRow]]:
        """The number of rows, and the broken ones, numbered from the first of `rows`."""
        broken_rows = (self.validate(row, index) for index, row in enumerate(rows))
        return len(rows), [row for row in broken_rows if row]

    def validate(self, row: dict, index: int = 0) -> BrokenRow | None:
        """What is wrong with a row, if anything is; `index` is its number in the result."""
        if row["problem"] is not None:
            return BrokenRow(index, shorten(hide_secrets(row["id"])), MALFORMED, row["problem"])
        messages, images = row["messages"], row["images"] or []
        try:
            _check_has_answer(messages)
            length = self.processor.sequence_length(messages, self.hd)  # checks roles and content
            _check_texts(messages)
            _check_placeholders(messages, len(images))
            for image in images:
                read_row_image(image, reduced=True)
            if length > self.max_tokens:
                raise ConversationError(f"{length} tokens, of which {self.max_tokens} can be kept", CUT)
        except (ConversationError, ImageError) as error:
            return BrokenRow(
                index, shorten(hide_secrets(row["id"])), error.reason, shorten(hide_secrets(error.detail))
            )
        return None


# What training needs of a conversation that the model could take.


def _check_has_answer(messages: list[dict]) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        num_turns = len(roles) - (roles[:1] == ["system"])
        raise ConversationError(f"{num_turns} turns", NO_ASSISTANT)


def _check_texts(messages: list[dict]) -> None:
    """Only turns of the user may do without text, if they have an image."""
    for index, message in enumerate(messages):
        has_text = any(part["text"] and part["text"].strip() for part in message["content"])
        has_image = any(part["type"] == "image" for part in message["content"])
        if not has_text and (message["role"] != "user" or not has_image):
            raise ConversationError(f"message {index}, of {message['role']!r}", EMPTY_TURN)


def _check_placeholders(messages: list[dict], num_images: int) -> None:
    placeholders = sum(part["type"] == "image" for message in messages for part in message["content"])
    if placeholders != num_images:
        raise ConversationError(f"{placeholders} placeholders, {num_images} images", WRONG_COUNT)


def validate(dataset: Dataset | IterableDataset, validator: RowValidator, progress: bool = True) -> list[BrokenRow]:
    """
    Reads all rows, in worker processes, and returns the broken ones.

    Args:
        dataset (`Dataset` or `IterableDataset`): As [`~flashsloth.train.data.load_data`] returns it. A stream is read
            without workers, so that its rows are numbered in one order.
        validator ([`RowValidator`]): With the limits of the run.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on standard error.
    """
    total, num_workers = None, 0
    if isinstance(dataset, Dataset):
        total = len(dataset)
        num_workers = min(_num_cpus(), -(-total // ROWS_PER_TASK))
    loader = DataLoader(dataset, batch_size=ROWS_PER_TASK, num_workers=num_workers, collate_fn=validator)
    broken_rows, first = [], 0
    with tqdm(total=total, desc="Validating rows", unit=" rows", disable=not progress) as bar:
        for count, found in loader:
            broken_rows += [replace(row, index=first + row.index) for row in found]
            first += count
            bar.update(count)
    return broken_rows


def _num_cpus() -> int:
    """The processors that this process may use; torch warns of more workers."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


class DataValidation:
    """
    The validation of a run's data. Its result is kept in the run's output folder, for the same data and limits.

    Args:
        processor ([`FlashSlothProcessor`]), max_length (`int`, *optional*), hd (`bool`): See [`RowValidator`].
        folder (`str` or `Path`): The run's output folder.
        progress (`bool`, *optional*, defaults to `True`): Whether to show progress bars on standard error.
    """

    def __init__(
        self,
        processor: FlashSlothProcessor,
        max_length: int | None,
        hd: bool,
        folder: str | Path,
        progress: bool = True,
    ):
        self.validator = RowValidator(processor, max_length, hd)
        self.folder = Path(folder)
        self.progress = progress

    def validate_all(self, dataset: Dataset | IterableDataset, fingerprint: str) -> list[BrokenRow]:
        """
        Reads all rows and returns the broken ones.

        Args:
            dataset (`Dataset` or `IterableDataset`): As [`~flashsloth.train.data.load_data`] returns it.
            fingerprint (`str`): Its [`~flashsloth.train.data.fingerprint.fingerprint`].
        """
        sizes = None if isinstance(dataset, IterableDataset) else file_sizes(dataset)
        broken_rows = validate(dataset, self.validator, self.progress)
        self._keep(broken_rows, fingerprint, sizes)
        return broken_rows

    def validate_changed(self, dataset: Dataset, fingerprint: str) -> list[BrokenRow]:
        """
        Like [`~DataValidation.validate_all`], but if all rows were read before, reads only those that were broken and
        those with an image file that has another size now or is gone.
        """
        kept = self._kept(fingerprint)
        if kept is None:
            return self.validate_all(dataset, fingerprint)
        before, sizes_before = kept
        sizes = file_sizes(dataset)
        indices = sorted({row.index for row in before} | set(np.flatnonzero(sizes != sizes_before).tolist()))
        if not indices:
            return before
        found = validate(dataset.select(indices), self.validator, self.progress)
        now = [replace(row, index=indices[row.index]) for row in found]
        if now != before or not np.array_equal(sizes, sizes_before):
            self._keep(now, fingerprint, sizes)
        return now

    def rows_to_skip(
        self,
        dataset: Dataset | IterableDataset,
        fingerprint: str,
        on_broken_rows: str,
        is_resumed: bool = False,
    ) -> list[int]:
        """
        The numbers of the rows that are not trained on; none of a stream, whose rows are validated as they come.

        Args:
            dataset (`Dataset` or `IterableDataset`), fingerprint (`str`): See [`~DataValidation.validate_all`].
            on_broken_rows (`str`): "stop" or "skip"; "skip" lists the rows in `folder/skipped_rows.jsonl`.
            is_resumed (`bool`, *optional*, defaults to `False`): Whether the run is resumed: it needs the rows that it
                began with.

        Raises:
            ValueError: If there are broken rows and `on_broken_rows` is "stop", if no row is left, or if a row has
                broken since the run began.
        """
        if isinstance(dataset, IterableDataset):
            self._refuse_broken_stream(fingerprint, on_broken_rows)
            return []
        broken_rows = self.validate_changed(dataset, fingerprint)
        if broken_rows:
            logger.warning("%s", report(broken_rows))
        if is_resumed:
            return self._rows_skipped_before(broken_rows)
        if broken_rows and on_broken_rows == "stop":
            raise ValueError(self._refusal(broken_rows, f"{len(dataset)}"))
        if len(broken_rows) == len(dataset):
            raise ValueError(
                f"All {len(dataset)} rows are broken, the first by: {broken_rows[0].reason}: {broken_rows[0].detail}. "
                "There is nothing to train on."
            )
        if broken_rows:
            write_jsonl(broken_rows, self.folder / SKIPPED_FILE)
        return [row.index for row in broken_rows]

    def _rows_skipped_before(self, broken_rows: list[BrokenRow]) -> list[int]:
        """The rows that the run began without. They stay out if they are repaired, and no other may have broken."""
        skipped = {row["index"] for row in skipped_rows(self.folder)}
        for row in broken_rows:
            if row.index not in skipped:
                raise ValueError(
                    f"row {row.index}, id {row.id!r}, has become broken since the run began ({row.reason}: "
                    f"{row.detail}): repair it, as a resumed run needs the rows that it began with"
                )
        return sorted(skipped)

    def _refuse_broken_stream(self, fingerprint: str, on_broken_rows: str) -> None:
        kept = self._kept(fingerprint)
        if kept is None:
            logger.info("The data is a stream: its rows are validated as they come, unless `data check` did before.")
        elif kept[0] and on_broken_rows == "stop":
            refusal = self._refusal(kept[0], "the stream's")
            raise ValueError(f"{refusal} After a repair, run `data check` again.")

    def _refusal(self, broken_rows: list[BrokenRow], total: str) -> str:
        first = broken_rows[0]
        return (
            f"{len(broken_rows)} of {total} rows are broken, the first is row {first.index}, id {first.id!r} "
            f"({first.reason}: {first.detail}); all are in {self.folder / RESULT_FILE}. Repair them, or train "
            "without them by on_broken_rows=skip."
        )

    # The result is in two files. The first line of one of them has a hash of the other: if only one of them was
    # written, they do not match.

    def _key(self, fingerprint: str, sizes: np.ndarray | None) -> dict:
        processor = self.validator.processor
        return {
            "fingerprint": fingerprint,
            "files": None if sizes is None else hashlib.sha256(sizes).hexdigest(),
            "max_tokens": self.validator.max_tokens,
            "tokens_per_image": processor.num_image_tokens(self.validator.hd),
            "tokens_per_query_slot": processor.num_query_tokens,
        }

    def _keep(self, broken_rows: list[BrokenRow], fingerprint: str, sizes: np.ndarray | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if sizes is not None:
            unfinished = self.folder / f"new.{SIZES_FILE}"
            np.save(unfinished, sizes)
            unfinished.replace(self.folder / SIZES_FILE)
        write_lines([self._key(fingerprint, sizes), *map(asdict, broken_rows)], self.folder / RESULT_FILE)

    def _kept(self, fingerprint: str) -> tuple[list[BrokenRow], np.ndarray | None] | None:
        result, sizes_file = self.folder / RESULT_FILE, self.folder / SIZES_FILE
        if not result.is_file():
            return None
        try:
            with result.open(encoding="utf-8") as lines:
                key, *rows = map(json.loads, lines)
            sizes = np.load(sizes_file) if sizes_file.is_file() else None
        except (ValueError, EOFError):  # damaged
            return None
        sizes = None if key.get("files") is None else sizes
        return ([BrokenRow(**row) for row in rows], sizes) if key == self._key(fingerprint, sizes) else None


def without(dataset: Dataset, rows: list[int]) -> Dataset:
    """The set without the rows of these numbers."""
    return dataset.select(np.delete(np.arange(len(dataset)), rows)) if rows else dataset
