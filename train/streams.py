# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Streams. A stream cannot be read through before it is trained on, so each of its rows is checked when it comes, in the
worker that reads it. Whether a row is left out depends on the row alone: a run that goes on after a stop reads the
same rows in the same order.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import IterableDataset

from flashsloth.processing_flashsloth import FlashSlothProcessor
from flashsloth.train.checks import BadRow, BadRowError, RowChecker
from flashsloth.train.selection import SKIPPED_FILE


# Rows that are shuffled among each other.
SHUFFLE_BUFFER = 1000


class EndlessStream(torch.utils.data.IterableDataset):
    """
    The rows of a stream over and over, each time in another order. Without an end no process can reach it before the
    others, whose parts are longer, and no batch has to be filled up.

    Args:
        stream (`datasets.IterableDataset`): What this process reads of the data.
        seed (`int`): Decides the order.
    """

    def __init__(self, stream: IterableDataset, seed: int):
        self.stream = stream
        self.seed = seed

    def __iter__(self) -> Iterator[dict]:
        for epoch in itertools.count():
            is_empty = True  # for a worker, as of a stream with fewer files than workers
            for row in self.stream.shuffle(seed=self.seed + epoch, buffer_size=SHUFFLE_BUFFER):
                is_empty = False
                yield row
            if is_empty:
                return


class StreamCheck:
    """
    Deals the rows of streams to processes, and checks them as [`~flashsloth.train.checks.check`] does those of other
    sets. Each image is read once more for it.

    Where the files of a stream can be dealt evenly, each process reads its own; else each reads all of them, and keeps
    every so-manieth row.

    Args:
        processor ([`FlashSlothProcessor`]), max_length (`int`, *optional*), hd (`bool`): As of
            [`~flashsloth.train.checks.check`].
        on_bad_rows (`str`): "stop" raises a [`BadRowError`]; "skip" leaves broken rows out and adds them to
            `folder/skipped_rows.jsonl`.
        folder (`str` or `Path`): The run's output folder.
        process_index (`int`, *optional*, defaults to 0), num_processes (`int`, *optional*, defaults to 1): Whose rows.
    """

    def __init__(
        self,
        processor: FlashSlothProcessor,
        max_length: int | None,
        hd: bool,
        on_bad_rows: str,
        folder: str | Path,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        self.checker = RowChecker(processor, max_length, hd)
        self.on_bad_rows = on_bad_rows
        self.skipped_file = Path(folder) / SKIPPED_FILE
        self.process_index, self.num_processes = process_index, num_processes
        self._listed = set()

    def __call__(self, stream: IterableDataset, source: str) -> IterableDataset:
        """The good rows of this process's part of a stream; `source` names it in what is said of a row."""
        if stream.num_shards % self.num_processes == 0:
            stream = stream.shard(num_shards=self.num_processes, index=self.process_index)
        else:
            stream = stream.filter(self._is_of_this_process, with_indices=True)
        return stream.filter(self._is_good, with_indices=True, fn_kwargs={"source": source})

    def _is_of_this_process(self, row: dict, index: int) -> bool:
        return index % self.num_processes == self.process_index

    def _is_good(self, row: dict, index: int, source: str) -> bool:
        _, problems = self.checker([row])
        if not problems:
            return True
        [(_, problem)] = problems
        bad = BadRow(index, *problem)
        if self.on_bad_rows == "stop":
            raise BadRowError(
                f"{source}: the row with the id {bad.id!r} is broken ({bad.reason}: {bad.detail}). Repair it, or "
                "train without such rows by on_bad_rows=skip."
            )
        if (source, problem) not in self._listed:  # by this worker, in an earlier epoch
            self._listed.add((source, problem))
            self.skipped_file.parent.mkdir(parents=True, exist_ok=True)
            with self.skipped_file.open("a", encoding="utf-8") as file:  # a line at a time: several workers write it
                file.write(json.dumps(asdict(bad) | {"source": source}, ensure_ascii=False) + "\n")
        return False
