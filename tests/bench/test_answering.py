# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of workers asks the same in all ways and ends with one JSON object; its times are not tested."""

import json

import pytest

from flashsloth.bench import main
from flashsloth.bench.answering import write_questions
from flashsloth.tiny.data import make_dataset


def test_last_line_is_the_report(capsys):
    main(["answer", "--rows", "6", "--batch-size", "3", "--repeats", "1", "--workers", "1", "--max-new-tokens", "4"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["rows"], report["batch_size"], report["workers"]) == (6, 3, 1)
    assert report["different_answers"] == 0 and report["speedup"] == 1
    assert report["plain loop"]["rows_per_s"] > 0 and report["1 worker"]["start_s"] > 0


def test_questions_are_those_of_the_generated_set(tmp_path):
    rows = list(write_questions(tmp_path, 3).rows([]))
    for row, made in zip(rows, make_dataset("exam", "heldout", 3), strict=True):
        assert row.question == made["messages"][0]["content"][1]["text"]
        assert [image.startswith(b"\x89PNG") for image in row.images] == [True]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--workers", "0"], "must be 1 or more"), (["--rows", "15"], "--rows must be two batches or more")],
)
def test_wrong_numbers(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["answer", *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err
