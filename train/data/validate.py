# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Reads every row of a set as training would, images included, and names those that nothing can be learned from.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from flashsloth.image_processing_flashsloth import ImageError
from flashsloth.processing_flashsloth import (
    EMPTY_TURN,
    ConversationError,
    FlashSlothProcessor,
    check_content,
    check_roles,
)
from flashsloth.train.data.images import FromWorker, read_row_image


MALFORMED = "malformed row"
NO_ASSISTANT = "no assistant turn"
WRONG_COUNT = "placeholder count differs"
CUT = "answer cut by max_length"

ROWS_PER_TASK = 32
ROWS_IN_REPORT = 50


@dataclass(frozen=True)
class BadRow:
    """
    A row that cannot be learned from.

    Args:
        index (`int`): Its number in the set, from 0; of a stream, the number at which `data check` met it.
        id (`str`): Its id in the data.
        reason (`str`): What is wrong, in the words of the constants above and of `flashsloth.train.data.images`. A row
            is reported once, by what is found first.
        detail (`str`): Which turn, file or number.
    """

    index: int
    id: str
    reason: str
    detail: str


class BadRowError(FromWorker, ValueError):
    """A row that nothing can be learned from, met while training."""


def check(
    dataset: Dataset | IterableDataset,
    processor: FlashSlothProcessor,
    max_length: int | None,
    hd: bool,
    progress: bool = True,
) -> list[BadRow]:
    """
    Reads all rows, in worker processes, and returns the broken ones.

    Args:
        dataset (`Dataset` or `IterableDataset`): Of [`load_data`]. A stream is read
            without workers: each would number rows without an id anew.
        processor ([`FlashSlothProcessor`]): Of the model that is to be trained.
        max_length (`int`, *optional*): Tokens after which training cuts rows off; the decoder's positions if unset.
        hd (`bool`): Whether images are seen in high definition, which takes more tokens.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar on standard error.
    """
    if isinstance(dataset, IterableDataset):
        total, num_workers = None, 0
    else:
        total = len(dataset)
        num_workers = min(os.cpu_count() or 1, -(-total // ROWS_PER_TASK))
    checker = RowChecker(processor, max_length, hd)
    loader = DataLoader(dataset, batch_size=ROWS_PER_TASK, num_workers=num_workers, collate_fn=checker)
    bad, first = [], 0
    with tqdm(total=total, desc="Checking rows", unit=" rows", disable=not progress) as bar:
        for count, problems in loader:
            bad += [BadRow(first + offset, *problem) for offset, problem in problems]
            first += count
            bar.update(count)
    return bad


def report(bad: list[BadRow]) -> str:
    """How many rows are broken by what, and the first of them, as a table."""
    if not bad:
        return "No broken rows."
    counts = Counter(row.reason for row in bad).most_common()
    lines = [f"Broken rows: {len(bad)}", *(f"{count:>8}  {reason}" for reason, count in counts), ""]
    shown = [("row", "id", "reason", "detail")]
    shown += [(str(row.index), _cell(row.id, 40), row.reason, _cell(row.detail, 200)) for row in bad[:ROWS_IN_REPORT]]
    widths = [max(len(cells[column]) for cells in shown) for column in range(3)]
    for number, name, reason, detail in shown:
        lines.append(f"{number:>{widths[0]}}  {name:{widths[1]}}  {reason:{widths[2]}}  {detail}")
    if len(bad) > ROWS_IN_REPORT:
        lines.append(f"... and {len(bad) - ROWS_IN_REPORT} more")
    return "\n".join(lines)


def _cell(text: str, limit: int) -> str:
    """One line of printable text."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def write_jsonl(bad: list[BadRow], path: str | Path) -> None:
    """Writes one JSON object per row: `index`, `id`, `reason`, `detail`."""
    write_lines(map(asdict, bad), Path(path))


def write_lines(objects: Iterable[dict], file: Path) -> None:
    """Writes JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.new")  # under its own name only when it is whole
    unfinished.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in objects), encoding="utf-8")
    unfinished.replace(file)


class RowChecker:
    """Checks rows; as the `collate_fn` of a `DataLoader`, in its workers."""

    def __init__(self, processor: FlashSlothProcessor, max_length: int | None, hd: bool):
        self.processor = processor
        self.max_tokens = max_tokens_of(processor, max_length)
        self.hd = hd

    def __call__(self, rows: list[dict]) -> tuple[int, list[tuple[int, tuple[str, str, str]]]]:
        """Number of rows, and (offset, (id, reason, detail)) of the broken ones."""
        problems = ((offset, row["id"], self._problem(row)) for offset, row in enumerate(rows))
        return len(rows), [(offset, (name, *problem)) for offset, name, problem in problems if problem]

    def _problem(self, row: dict) -> tuple[str, str] | None:
        if row["problem"] is not None:
            return MALFORMED, row["problem"]
        images = row["images"] or []
        problem = _turn_problem(row["messages"]) or _count_problem(row["messages"], len(images))
        return problem or self._image_problem(images) or self._length_problem(row["messages"])

    def _image_problem(self, images: list[dict | None]) -> tuple[str, str] | None:
        try:
            for image in images:
                read_row_image(image, reduced=True)
        except ImageError as error:
            return error.reason, error.detail
        return None

    def _length_problem(self, messages: list[dict]) -> tuple[str, str] | None:
        length = self.processor.sequence_length(messages, self.hd)
        if length > self.max_tokens:
            return CUT, f"{length} tokens, of which {self.max_tokens} can be kept"
        return None


def max_tokens_of(processor: FlashSlothProcessor, max_length: int | None) -> int:
    positions = processor.tokenizer.model_max_length
    return positions if max_length is None else min(max_length, positions)


def tokens_per_image_of(processor: FlashSlothProcessor, hd: bool) -> int:
    return processor.num_image_tokens(hd)


def _turn_problem(messages: list[dict]) -> tuple[str, str] | None:
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not any(message["role"] == "assistant" for message in turns):
        return NO_ASSISTANT, f"{len(turns)} turns"
    try:
        check_roles(messages, "The conversation")
        check_content(messages, "The conversation")
    except ConversationError as error:
        return error.reason, error.detail
    for index, message in enumerate(messages):
        has_text = any(part["text"] and part["text"].strip() for part in message["content"])
        has_image = any(part["type"] == "image" for part in message["content"])
        if not has_text and (message["role"] != "user" or not has_image):
            return EMPTY_TURN, f"message {index}, of {message['role']!r}"
    return None


def _count_problem(messages: list[dict], num_images: int) -> tuple[str, str] | None:
    placeholders = sum(part["type"] == "image" for message in messages for part in message["content"])
    if placeholders != num_images:
        return WRONG_COUNT, f"{placeholders} placeholders, {num_images} images"
    return None
