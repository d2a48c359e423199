# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Broken rows of streams. A stream cannot be read through before it is trained on, so each of its rows is checked when it
comes, in the worker that reads it. Whether a row is left out depends on the row alone: a run that goes on after a stop
reads the same rows in the same order.
"""

import json
from dataclasses import asdict
from pathlib import Path

from datasets import IterableDataset

from flashsloth.processing_flashsloth import FlashSlothProcessor
from flashsloth.train.checks import BadRow, BadRowError, RowChecker
from flashsloth.train.selection import SKIPPED_FILE


class StreamCheck:
    """
    Checks the rows of streams as [`~flashsloth.train.checks.check`] does those of other sets. Each image is read
    once more for it.

    Args:
        processor ([`FlashSlothProcessor`]), max_length (`int`, *optional*), hd (`bool`): As of
            [`~flashsloth.train.checks.check`].
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

    def __call__(self, stream: IterableDataset, source: str) -> IterableDataset:
        """The good rows of a stream; `source` names it in what is said of a row."""
        return stream.filter(self._is_good, with_indices=True, fn_kwargs={"source": source})

    def _is_good(self, row: dict, index: int, source: str) -> bool:
        _, problems = self.checker([row])
        if not problems:
            return True
        [(_, problem)] = problems
        bad = BadRow(index, *problem)
        if self.on_bad_rows == "stop":
            raise BadRowError(
                f"{source}: row {bad.index} of the stream, id {bad.id!r}, is broken ({bad.reason}: {bad.detail}). "
                "Repair it, or train without such rows by on_bad_rows=skip."
            )
        self.skipped_file.parent.mkdir(parents=True, exist_ok=True)
        with self.skipped_file.open("a", encoding="utf-8") as file:  # a line at a time: several workers write it
            file.write(json.dumps(asdict(bad) | {"source": source}, ensure_ascii=False) + "\n")
        return False
