# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of batches asks the same both ways and ends with one JSON object; its times are not tested."""

import json

import pytest

from flashsloth.bench import main
from flashsloth.bench.evaluation import make_question
from flashsloth.tiny.data import make_dataset


def test_last_line_is_the_report(capsys):
    main(["eval", "--questions", "10", "--batch-size", "4"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["questions"], report["batch_size"], report["dtype"]) == (10, 4, "float32")
    assert report["different_answers"] == 0
    assert report["time_ratio"] == pytest.approx(
        report["batches of 4"]["seconds"] / report["one by one"]["seconds"],
        abs=0.1,  # of seconds that are rounded
    )


def test_questions_are_those_of_the_generated_set():
    rows = make_dataset("exam", "heldout", 3)
    for index, row in enumerate(rows):
        question = make_question(index)
        assert question.prompt == row["messages"][0]["content"][1]["text"]
        assert question.category == row["kind"] and question.image.startswith(b"\x89PNG")


def test_wrong_number(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["eval", "--questions", "0"])
    assert stop.value.code == 2 and "must be 1 or more" in capsys.readouterr().err
