# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""GQA's rule, worked by hand, and its files."""

import json

import numpy as np
import pytest
from benchmark_files import write_benchmark

from flashsloth.eval.gqa import GQA
from flashsloth.eval.run import read_task, score_answers


@pytest.mark.parametrize(
    ("text", "answer", "is_right", "is_right_for_lmms_eval"),
    [
        ("yes", "yes", True, True),
        ("Yes.", "yes", True, True),
        ("Yes...", "yes", True, True),  # every final dot goes
        ("yes. ", "yes", False, False),  # the space is the end, not the dot
        (" yes", "yes", False, False),  # spaces are not stripped
        ("yes!", "yes", False, True),
        ("living room", "living room", True, True),
        ("living-room", "living room", False, False),
        ("t-shirt", "t-shirt", True, True),
        ("T shirt", "t-shirt", False, False),
        ("Café", "café", True, True),
        ("the woman", "woman", False, False),  # articles stay
        ("", "yes", False, False),
        (".", "", True, True),
        ("two", "2", False, False),  # number words stay words
        ("no, it is not", "no", False, False),
    ],
)
def test_rule(text, answer, is_right, is_right_for_lmms_eval):
    labels = [{"answer": answer, "structure": "query", "balanced": True}]
    table = GQA().judge([None], labels, [text])
    assert table["value"].tolist() == [is_right]
    assert table["lmms_eval"].tolist() == [is_right_for_lmms_eval]


def test_scores_by_structure():
    """Three binary questions, of which two are right, one open that is right, and one that does not count."""
    structures = ["verify", "logical", "compare", "query", "query"]
    labels = [{"answer": "yes", "structure": name, "balanced": number < 4} for number, name in enumerate(structures)]
    table = GQA().judge([None] * 5, labels, ["yes", "no", "Yes.", "YES", "no"])
    assert GQA().scores(table, np.ones(5)) == {
        "accuracy": pytest.approx(75),
        "binary": pytest.approx(200 / 3),
        "open": pytest.approx(100),
    }


def test_no_open_questions_have_no_score():
    table = GQA().judge([None], [{"answer": "yes", "structure": "choose", "balanced": True}], ["yes"])
    assert GQA().scores(table, np.ones(1))["open"] is None


def test_submission_for_its_own_script(tmp_path):
    files = write_benchmark("gqa", tmp_path)
    task = read_task("gqa", [files.questions], files.labels)
    score_answers(task, files.write_answers(tmp_path / "answers.jsonl", q1="A Woman.."), tmp_path / "out")
    submitted = json.loads((tmp_path / "out" / "submission" / "testdev_balanced_predictions.json").read_text())
    assert submitted[:2] == [
        {"questionId": "201307251", "prediction": "no"},
        {"questionId": "201640614", "prediction": "a woman"},
    ]


def test_its_own_file_has_questions_and_labels(tmp_path):
    files = write_benchmark("gqa", tmp_path)
    by_llava, own = read_task("gqa", [files.questions], files.labels), read_task("gqa", [files.labels])
    assert [(q.key, q.prompt, q.image_name) for q in own.questions] == [
        (q.key, q.prompt, q.image_name) for q in by_llava.questions
    ]
    assert own.labels == by_llava.labels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "its 'answer' is None, not text"),
        ({"answer": 5}, "its 'answer' is 5, not text"),
        ({"question": None}, "its 'question' is None, not text"),
        ({"isBalanced": "False"}, "its 'isBalanced' is 'False', not true or false"),
        ({"types": {"structural": None}}, "its 'structural' is None, not text"),
    ],
)
def test_labels_of_another_type(tmp_path, change, message):
    files = write_benchmark("gqa", tmp_path)
    labels = json.loads(files.labels.read_text())
    next(iter(labels.values())).update(change)
    files.labels.write_text(json.dumps(labels))
    with pytest.raises(ValueError, match=message):
        read_task("gqa", [files.questions], files.labels)
