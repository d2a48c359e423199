# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The report of broken rows, and the files that list them."""

import json

from flashsloth.train.data.broken_rows import BrokenRow, report, skipped_rows, write_jsonl


def test_report_and_jsonl(tmp_path):
    assert report([]) == "No broken rows."
    broken_rows = [BrokenRow(index, f"id{index}", "missing image", f"{index}.jpg") for index in range(60)]
    odd = report([BrokenRow(0, "\x1b[31m" + "9" * 1000, "empty turn", "message\n1")])
    assert odd.isprintable() or odd.replace("\n", "").isprintable()
    assert len(odd.splitlines()) == 5 and max(map(len, odd.splitlines())) < 100
    lines = report([*broken_rows, BrokenRow(100, "x", "empty turn", "message 1")]).splitlines()
    assert lines[:3] == ["Broken rows: 61", "      60  missing image", "       1  empty turn"]
    assert lines[5].split() == ["0", "id0", "missing", "image", "0.jpg"]
    assert lines[-3] == "... and 11 more"
    assert lines[-1].startswith("60 images are missing: their paths start from") and "image_folder" in lines[-1]
    assert "image_folder" not in report(broken_rows[:2])  # each for its own reason, perhaps
    write_jsonl(broken_rows, tmp_path / "broken.jsonl")
    lines = (tmp_path / "broken.jsonl").read_text().splitlines()
    assert [BrokenRow(**json.loads(line)) for line in lines] == broken_rows


def test_skipped_rows_of_a_run_that_was_killed(tmp_path):
    """It may list a row of a stream twice, as it reads it again, and leave half a line."""
    assert skipped_rows(tmp_path) == []
    row = {"source": "rows.jsonl", "id": "x7", "reason": "empty turn", "detail": "message 1"}
    lines = json.dumps(row) + "\n" + json.dumps(row) + '\n{"source": "ro'
    (tmp_path / "skipped_rows.jsonl").write_text(lines)
    assert skipped_rows(tmp_path) == [row]
