# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Which rows of a set are trained on. Broken ones stop a run or are left out, as a whole; nothing is ever put in their
place. All rows are read once: what the check found is kept in the run's output folder.
"""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

from datasets import Dataset, IterableDataset

from flashsloth.processing_flashsloth import FlashSlothProcessor
from flashsloth.train.checks import (
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
SKIPPED_FILE = "skipped_rows.jsonl"


def check_and_keep(
    dataset: Dataset | IterableDataset,
    processor: FlashSlothProcessor,
    max_length: int | None,
    hd: bool,
    folder: str | Path,
    progress: bool = True,
) -> list[BadRow]:
    """[`check`], with the result kept in the run's output folder for [`check_cached`]; but that of a stream is not."""
    bad = check(dataset, processor, max_length, hd, progress)
    if isinstance(dataset, Dataset):
        _keep(bad, _key(dataset, processor, max_length, hd), folder)
    return bad


def check_cached(
    dataset: Dataset,
    processor: FlashSlothProcessor,
    max_length: int | None,
    hd: bool,
    folder: str | Path,
    progress: bool = True,
    repaired: bool = False,
) -> list[BadRow]:
    """
    What [`check_and_keep`] found for this set and these settings, or finds if it was not called for them yet: a run
    that goes on does not read everything again. Image files that become broken in the meantime are not noticed.

    Args:
        repaired (`bool`, *optional*, defaults to `False`): Look again at the rows that were broken.
    """
    key, file = _key(dataset, processor, max_length, hd), Path(folder) / RESULT_FILE
    if not file.is_file():
        return check_and_keep(dataset, processor, max_length, hd, folder, progress)
    with file.open(encoding="utf-8") as lines:
        if json.loads(next(lines)) != key:
            return check_and_keep(dataset, processor, max_length, hd, folder, progress)
        bad = [BadRow(**json.loads(line)) for line in lines]
    if bad and repaired:
        indices = [row.index for row in bad]
        still_bad = check(dataset.select(indices), processor, max_length, hd, progress)
        bad = [replace(row, index=indices[row.index]) for row in still_bad]
        _keep(bad, key, folder)
    return bad


def _key(dataset: Dataset, processor: FlashSlothProcessor, max_length: int | None, hd: bool) -> dict:
    """What the result of a check depends on."""
    return {
        "fingerprint": dataset._fingerprint,
        "rows": len(dataset),
        "max_tokens": max_tokens_of(processor, max_length),
        "tokens_per_image": tokens_per_image_of(processor, hd),
        "tokens_per_query_slot": processor.num_query_tokens,
    }


def _keep(bad: list[BadRow], key: dict, folder: str | Path) -> None:
    write_lines([key, *map(asdict, bad)], Path(folder) / RESULT_FILE)


def good_rows(
    dataset: Dataset | IterableDataset,
    processor: FlashSlothProcessor,
    max_length: int | None,
    hd: bool,
    on_bad_rows: str,
    folder: str | Path,
    progress: bool = True,
) -> Dataset | IterableDataset:
    """
    The rows to train on. A stream is returned as it is: see [`~flashsloth.train.streams.StreamCheck`].

    Args:
        on_bad_rows (`str`): "stop" or "skip"; with "skip" the rows that are left out are listed in
            `folder/skipped_rows.jsonl`.
        folder (`str` or `Path`): The run's output folder; see [`check_cached`], as for the other arguments.

    Raises:
        ValueError: If there are broken rows and `on_bad_rows` is "stop", or if no row is left.
    """
    if isinstance(dataset, IterableDataset):
        logger.info("The data is a stream: its rows are checked as they come.")
        return dataset
    # A run that leaves rows out has to go on with the same ones.
    repaired = on_bad_rows == "stop"
    bad = check_cached(dataset, processor, max_length, hd, folder, progress, repaired)
    skipped = Path(folder) / SKIPPED_FILE
    if not bad:
        skipped.unlink(missing_ok=True)  # of an earlier run on other data
        return dataset
    logger.warning("%s", report(bad))
    if on_bad_rows == "stop":
        raise ValueError(
            f"{len(bad)} of {len(dataset)} rows are broken, the first is row {bad[0].index}, id {bad[0].id!r} "
            f"({bad[0].reason}: {bad[0].detail}); all are in {Path(folder) / RESULT_FILE}. Repair them, or train "
            "without them by on_bad_rows=skip."
        )
    if len(bad) == len(dataset):
        raise ValueError(
            f"All {len(dataset)} rows are broken, the first by: {bad[0].reason}: {bad[0].detail}. There is nothing to "
            "train on."
        )
    write_jsonl(bad, skipped)
    broken = {row.index for row in bad}
    return dataset.select([index for index in range(len(dataset)) if index not in broken])


def skipped_rows(folder: str | Path) -> list[dict]:
    """What a run left out, each row once: epochs, and runs that go on, meet the rows of a stream again."""
    file = Path(folder) / SKIPPED_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in dict.fromkeys(lines)]
