# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The table of exported checkpoints: sizes, right answers, and answers that are those of torch."""

import flashsloth
from flashsloth.tiny.data import make_dataset
from flashsloth.tiny.evaluate import accuracy
from flashsloth.tiny.exported import _equal, examine, table


def test_right_and_equal_answers_are_counted(exported):
    exam = make_dataset("exam", "heldout", 30)
    outcomes = examine(flashsloth.load(exported, backend="onnxruntime"), exam)
    assert [outcome.kind for outcome in outcomes] == [row["kind"] for row in exam]
    assert accuracy(outcomes) > 80
    assert _equal(outcomes, outcomes) == 100
    assert _equal(outcomes, outcomes[1:] + outcomes[:1]) < 80


def test_the_table_has_a_row_for_each_kind_of_weights():
    measured = {"torch": {"accuracy": 94.0}, "int4": {"mb": 2.04, "accuracy": 93.55, "equal": 98.0}}
    assert table({"standard": measured}).splitlines() == [
        "| | standard: MB | standard: right, % | standard: equal, % |",
        "| --- | ---: | ---: | ---: |",
        "| torch |  | 94.0 |  |",
        "| int4 | 2.0 | 93.5 | 98.0 |",
    ]
