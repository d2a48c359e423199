# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Streams. A stream cannot be read through before it is trained on, so each of its rows is checked when it comes, in the
worker that reads it. Whether a row is left out depends on the row alone: a run that goes on after a stop reads the
same rows in the same order.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import IterableDataset

from flashsloth.processing_flashsloth import FlashSlothProcessor
from flashsloth.train.data.selection import SKIPPED_FILE
from flashsloth.train.data.validate import BadRowError, RowChecker


# Rows that are shuffled among each other.
SHUFFLE_BUFFER = 1000


class StreamCheck:
    """
    Checks rows of streams as [`check`] does those of other sets. Each image is read once more for it.

    Args:
        processor ([`FlashSlothProcessor`]), max_length (`int`, *optional*), hd (`bool`): As of
            [`~flashsloth.train.data.validate.check`].
        on_bad_rows (`str`): "stop" raises a [`BadRowError`]; "skip" leaves broken rows out and adds them to
            `folder/skipped_rows.jsonl`.
        folder (`str` or `Path`): The run's output folder.
    """

    def __init__(
        self,
        processor: FlashSlothProcessor,
        max_length: int | None,
        hd: bool,
        on_bad_rows: str,
        folder: str | Path,
    ):
        self.checker = RowChecker(processor, max_length, hd)
        self.on_bad_rows = on_bad_rows
        self.skipped_file = Path(folder) / SKIPPED_FILE
        self._listed = set()

    def __call__(self, row: dict) -> bool:
        """Whether to learn from a row."""
        _, problems = self.checker([row])
        if not problems:
            return True
        [(_, problem)] = problems
        name, reason, detail = problem
        if self.on_bad_rows == "stop":
            raise BadRowError(
                f"{row['source']}: the row with the id {name!r} is broken ({reason}: {detail}). Repair it, or train "
                "without such rows by on_bad_rows=skip."
            )
        if (row["source"], problem) not in self._listed:  # by this worker, in an earlier pass
            self._listed.add((row["source"], problem))
            skipped = {"source": row["source"], "id": name, "reason": reason, "detail": detail}
            self.skipped_file.parent.mkdir(parents=True, exist_ok=True)
            with self.skipped_file.open("a", encoding="utf-8") as file:  # a line at a time: several workers write it
                file.write(json.dumps(skipped, ensure_ascii=False) + "\n")
        return False


class EndlessStream(torch.utils.data.IterableDataset):
    """
    The rows of a stream over and over, each time in another order. Without an end no process can reach it before the
    others, whose parts are longer, and no batch has to be filled up.

    Args:
        stream (`datasets.IterableDataset`): What this process reads of the data.
        seed (`int`): Decides the order.
        check (`StreamCheck`, *optional*): Which rows are learned from. It is asked here, behind the threads in which
            `datasets` reads ahead, since the collator shares its tokenizer.
    """

    def __init__(self, stream: IterableDataset, seed: int, check: StreamCheck | None = None):
        self.stream = stream
        self.seed = seed
        self.check = check

    def __iter__(self) -> Iterator[dict]:
        for epoch in itertools.count():
            is_empty = True  # for a worker, as of a stream with fewer files than workers
            for row in self.stream.shuffle(seed=self.seed + epoch, buffer_size=SHUFFLE_BUFFER):
                if self.check is None or self.check(row):
                    is_empty = False
                    yield row
            if is_empty:
                return
