# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Streams. All rows of a stream cannot be read before training, so each row is validated as it comes, in the worker that
reads it. Whether a row is skipped depends on the row alone: a resumed run reads the same rows in the
same order.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import IterableDataset

from flashsloth.processing_flashsloth import FlashSlothProcessor
from flashsloth.train.data.broken_rows import SKIPPED_FILE, BrokenRowError
from flashsloth.train.data.validate import RowValidator


SHUFFLE_BUFFER = 1000  # rows that are shuffled among each other


class StreamFilter:
    """
    Says which rows of a stream are trained on. To validate a row, each of its images is read once more.

    Args:
        processor ([`FlashSlothProcessor`]), max_length (`int`, *optional*), hd (`bool`): See
            [`~flashsloth.train.data.validate.RowValidator`].
        on_broken_rows (`str`): "stop" raises a [`~flashsloth.train.data.broken_rows.BrokenRowError`]; "skip" leaves
            broken rows out and adds them to `folder/skipped_rows.jsonl`.
        folder (`str` or `Path`): The run's output folder.
    """

    def __init__(
        self,
        processor: FlashSlothProcessor,
        max_length: int | None,
        hd: bool,
        on_broken_rows: str,
        folder: str | Path,
    ):
        self.validator = RowValidator(processor, max_length, hd)
        self.on_broken_rows = on_broken_rows
        self.skipped_file = Path(folder) / SKIPPED_FILE
        self._listed = set()

    def __call__(self, row: dict) -> bool:
        """Whether to train on a row."""
        broken_row = self.validator.validate(row)
        if broken_row is None:
            return True
        if self.on_broken_rows == "stop":
            raise BrokenRowError(
                f"{row['source']}: the row with the id {broken_row.id!r} is broken ({broken_row.reason}: "
                f"{broken_row.detail}). Repair it, or train without such rows by on_broken_rows=skip."
            )
        if (row["source"], broken_row) not in self._listed:  # by this worker, in an earlier pass
            self._listed.add((row["source"], broken_row))
            skipped = {
                "source": row["source"],
                "id": broken_row.id,
                "reason": broken_row.reason,
                "detail": broken_row.detail,
            }
            self.skipped_file.parent.mkdir(parents=True, exist_ok=True)
            with self.skipped_file.open("a", encoding="utf-8") as file:  # a line at a time: several workers write it
                file.write(json.dumps(skipped, ensure_ascii=False) + "\n")
        return False


class EndlessStream(torch.utils.data.IterableDataset):
    """
    The rows of a stream over and over, each time in another order. Without an end, no process reaches it before the
    others, whose shards are larger, and no batch has to be filled up.

    Args:
        stream (`datasets.IterableDataset`): The shard of this process.
        seed (`int`): Decides the order.
        stream_filter ([`StreamFilter`], *optional*): Which rows are trained on; all if unset. It is applied here and
            not by `stream.filter`: `datasets` would apply it in threads that read ahead, while the collator uses the
            same tokenizer.
    """

    def __init__(self, stream: IterableDataset, seed: int, stream_filter: StreamFilter | None = None):
        self.stream = stream
        self.seed = seed
        self.stream_filter = stream_filter

    def __iter__(self) -> Iterator[dict]:
        for epoch in itertools.count():
            is_empty = True  # for a worker, if the stream has fewer files than there are workers
            for row in self.stream.shuffle(seed=self.seed + epoch, buffer_size=SHUFFLE_BUFFER):
                if self.stream_filter is None or self.stream_filter(row):
                    is_empty = False
                    yield row
            if is_empty:
                return
