# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Which rows of a set are trained on. Broken ones stop a run or are left out, as a whole; nothing is ever put in their
place. All rows are read once: what the check found is kept in the run's output folder.
"""

import contextlib
import hashlib
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from datasets import Dataset, IterableDataset

from flashsloth.processing_flashsloth import FlashSlothProcessor
from flashsloth.train.data.images import file_sizes
from flashsloth.train.data.validate import (
    BadRow,
    check,
    max_tokens_of,
    report,
    tokens_per_image_of,
    write_jsonl,
    write_lines,
)


logger = logging.getLogger(__name__)

RESULT_FILE = "data_check.jsonl"
SIZES_FILE = "data_check.npy"
SKIPPED_FILE = "skipped_rows.jsonl"


class DataCheck:
    """
    The check of a run's data. Its result is kept in the run's output folder, for the same data and settings.

    Args:
        processor ([`FlashSlothProcessor`]), max_length (`int`, *optional*), hd (`bool`): See
            [`~flashsloth.train.data.validate.check`].
        folder (`str` or `Path`): The run's output folder.
        progress (`bool`, *optional*, defaults to `True`): Show progress bars on standard error.
    """

    def __init__(
        self,
        processor: FlashSlothProcessor,
        max_length: int | None,
        hd: bool,
        folder: str | Path,
        progress: bool = True,
    ):
        self.settings = (processor, max_length, hd, progress)
        self.folder = Path(folder)
        self.limits = {
            "max_tokens": max_tokens_of(processor, max_length),
            "tokens_per_image": tokens_per_image_of(processor, hd),
            "tokens_per_query_slot": processor.num_query_tokens,
        }

    def read_all(self, dataset: Dataset | IterableDataset, fingerprint: str) -> list[BadRow]:
        """
        Reads all rows and returns the broken ones.

        Args:
            dataset (`Dataset` or `IterableDataset`): As [`~flashsloth.train.data.sources.load_data`] returns it.
            fingerprint (`str`): What [`~flashsloth.train.data.fingerprint.fingerprint`] says of it.
        """
        sizes = None if isinstance(dataset, IterableDataset) else file_sizes(dataset)
        bad = check(dataset, *self.settings)
        self._keep(bad, fingerprint, sizes)
        return bad

    def read_changed(self, dataset: Dataset, fingerprint: str) -> list[BadRow]:
        """
        As [`~DataCheck.read_all`], but of rows that were read before only those that were broken, and those with an
        image file that has another size now or is gone.
        """
        kept = self._kept(fingerprint)
        if kept is None:
            return self.read_all(dataset, fingerprint)
        bad, before = kept
        sizes = file_sizes(dataset)
        rows = sorted({row.index for row in bad} | set(np.flatnonzero(sizes != before).tolist()))
        if not rows:
            return bad
        now = [replace(row, index=rows[row.index]) for row in check(dataset.select(rows), *self.settings)]
        if now != bad or not np.array_equal(sizes, before):
            self._keep(now, fingerprint, sizes)
        return now

    def left_out(
        self,
        dataset: Dataset | IterableDataset,
        fingerprint: str,
        on_bad_rows: str,
        is_resumed: bool = False,
    ) -> list[int]:
        """
        The rows that are not trained on. Of a stream this cannot be told: see
        [`~flashsloth.train.data.streams.StreamCheck`].

        Args:
            dataset (`Dataset` or `IterableDataset`), fingerprint (`str`): As of [`~DataCheck.read_all`].
            on_bad_rows (`str`): "stop" or "skip"; with "skip" the rows that are left out are listed in
                `folder/skipped_rows.jsonl`.
            is_resumed (`bool`, *optional*, defaults to `False`): Whether the run goes on: it needs the rows that it
                began with.

        Raises:
            ValueError: If there are broken rows and `on_bad_rows` is "stop", if no row is left, or if a row has become
                broken since a run began that goes on.
        """
        if isinstance(dataset, IterableDataset):
            self._refuse_known(fingerprint, on_bad_rows)
            return []
        bad = self.read_changed(dataset, fingerprint)
        if bad:
            logger.warning("%s", report(bad))
        if is_resumed:
            return self._left_out_before(bad)
        if bad and on_bad_rows == "stop":
            raise ValueError(self._refusal(bad, f"{len(dataset)}"))
        if len(bad) == len(dataset):
            raise ValueError(
                f"All {len(dataset)} rows are broken, the first by: {bad[0].reason}: {bad[0].detail}. There is "
                "nothing to train on."
            )
        if bad:
            write_jsonl(bad, self.folder / SKIPPED_FILE)
        return [row.index for row in bad]

    def _left_out_before(self, bad: list[BadRow]) -> list[int]:
        """What a run began without: repaired rows stay out, and no other may have broken."""
        skipped = {row["index"] for row in skipped_rows(self.folder)}
        for row in bad:
            if row.index not in skipped:
                raise ValueError(
                    f"row {row.index}, id {row.id!r}, has become broken since the run began ({row.reason}: "
                    f"{row.detail}): repair it, as a run that goes on needs the rows that it began with"
                )
        return sorted(skipped)

    def _refuse_known(self, fingerprint: str, on_bad_rows: str) -> None:
        kept = self._kept(fingerprint)
        if kept is None:
            logger.info("The data is a stream: its rows are checked as they come, unless `data check` did before.")
        elif kept[0] and on_bad_rows == "stop":
            refusal = self._refusal(kept[0], "the stream's")
            raise ValueError(f"{refusal} After a repair, run `data check` again.")

    def _refusal(self, bad: list[BadRow], total: str) -> str:
        return (
            f"{len(bad)} of {total} rows are broken, the first is row {bad[0].index}, id {bad[0].id!r} "
            f"({bad[0].reason}: {bad[0].detail}); all are in {self.folder / RESULT_FILE}. Repair them, or train "
            "without them by on_bad_rows=skip."
        )

    # What was found stands in two files. Should only one of them be written, the hash in the other tells.

    def _key(self, fingerprint: str, sizes: np.ndarray | None) -> dict:
        files = None if sizes is None else hashlib.sha256(sizes).hexdigest()
        return {"fingerprint": fingerprint, "files": files} | self.limits

    def _keep(self, bad: list[BadRow], fingerprint: str, sizes: np.ndarray | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if sizes is not None:
            unfinished = self.folder / f"new.{SIZES_FILE}"
            np.save(unfinished, sizes)
            unfinished.replace(self.folder / SIZES_FILE)
        write_lines([self._key(fingerprint, sizes), *map(asdict, bad)], self.folder / RESULT_FILE)

    def _kept(self, fingerprint: str) -> tuple[list[BadRow], np.ndarray | None] | None:
        result, sizes = self.folder / RESULT_FILE, self.folder / SIZES_FILE
        if not result.is_file():
            return None
        try:
            with result.open(encoding="utf-8") as lines:
                key, *rows = map(json.loads, lines)
            before = np.load(sizes) if sizes.is_file() else None
        except (ValueError, EOFError):  # damaged
            return None
        before = None if key.get("files") is None else before
        return ([BadRow(**row) for row in rows], before) if key == self._key(fingerprint, before) else None


def without(dataset: Dataset, rows: list[int]) -> Dataset:
    """The set without the rows of these numbers."""
    return dataset.select(np.delete(np.arange(len(dataset)), rows)) if rows else dataset


def skipped_rows(folder: str | Path) -> list[dict]:
    """What a run left out, each row once: runs that go on meet the rows of a stream again."""
    file, rows = Path(folder) / SKIPPED_FILE, {}
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            # Half a line is of a run that was killed: its row comes again.
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                # The rows of a set are known by their numbers, those of streams by source and name.
                rows.setdefault(row["index"] if "source" not in row else tuple(row.values()), row)
    return list(rows.values())
