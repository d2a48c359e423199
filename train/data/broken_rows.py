# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Rows that cannot be trained on: what is known of them, the report, and the files that list them."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flashsloth.image_reading_flashsloth import MISSING_IMAGE
from flashsloth.train.data.images import FromWorker


SKIPPED_FILE = "skipped_rows.jsonl"
ROWS_IN_REPORT = 50
MANY_MISSING = 3  # images that are missing for one reason, rather than each for its own
IMAGE_FOLDER_HINT = (
    "their paths start from the folder of the data's file, or from image_folder; set it by data.0.image_folder=FOLDER"
)


@dataclass(frozen=True)
class BrokenRow:
    """
    A row that cannot be trained on.

    Args:
        index (`int`): Its number in the set, from 0; of a stream, the number at which `data check` read it.
        id (`str`): Its id in the data.
        reason (`str`): What is wrong with it: the first fault that was found, in the words of the constants of
            `flashsloth.train.data.validate`.
        detail (`str`): Which turn, file or number is wrong.
    """

    index: int
    id: str
    reason: str
    detail: str


class BrokenRowError(FromWorker, ValueError):
    """A row that cannot be trained on, found while training."""


def report(broken_rows: list[BrokenRow]) -> str:
    """A table of the number of broken rows by reason, and of the first of them."""
    if not broken_rows:
        return "No broken rows."
    counts = Counter(row.reason for row in broken_rows).most_common()
    lines = [f"Broken rows: {len(broken_rows)}", *(f"{count:>8}  {reason}" for reason, count in counts), ""]
    cells = [("row", "id", "reason", "detail")]
    for row in broken_rows[:ROWS_IN_REPORT]:
        cells.append((str(row.index), _cell(row.id, 40), row.reason, _cell(row.detail, 200)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for index, name, reason, detail in cells:
        lines.append(f"{index:>{widths[0]}}  {name:{widths[1]}}  {reason:{widths[2]}}  {detail}")
    if len(broken_rows) > ROWS_IN_REPORT:
        lines.append(f"... and {len(broken_rows) - ROWS_IN_REPORT} more")
    # Relative paths become absolute when rows are read, so that the detail shows where an image was looked for.
    missing = [row for row in broken_rows if row.reason == MISSING_IMAGE and "://" not in row.detail]
    if len(missing) >= MANY_MISSING:
        lines += ["", f"{len(missing)} images are missing: {IMAGE_FOLDER_HINT}"]
    return "\n".join(lines)


def _cell(text: str, limit: int) -> str:
    """One line of printable text."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def write_jsonl(broken_rows: list[BrokenRow], path: str | Path) -> None:
    """Writes one JSON object per row: `index`, `id`, `reason`, `detail`."""
    write_lines(map(asdict, broken_rows), Path(path))


def write_lines(objects: Iterable[dict], file: Path) -> None:
    """Writes JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.new")  # under its own name only when it is whole
    unfinished.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in objects), encoding="utf-8")
    unfinished.replace(file)


def skipped_rows(folder: str | Path) -> list[dict]:
    """
    The rows that a run skipped, each once: a resumed run reads the rows of a stream again.

    Args:
        folder (`str` or `Path`): The run's output folder.
    """
    file, rows = Path(folder) / SKIPPED_FILE, {}
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            # A run that was killed may have left half a line; the resumed run lists the row again.
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                # Numbers identify the rows of a set, sources and ids those of a stream.
                rows.setdefault(row["index"] if "source" not in row else tuple(row.values()), row)
    return list(rows.values())
