# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""POPE's two rules, worked by hand, and its files."""

import numpy as np
import pytest
from benchmark_files import read_lines, write_benchmark, write_lines

from flashsloth.eval.pope import POPE, is_no
from flashsloth.eval.questions import Question
from flashsloth.eval.run import read_task, score_answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No", True),
        ("No.", True),
        ("no", True),
        ("No, there is none", True),  # commas go before the words are looked at
        ("There is not", True),
        ("I do not, no", True),
        ("yes", False),
        ("Yes, no doubt", True),  # any "no" will do
        ("Yes. No", False),  # after the first dot nothing counts
        ("Not", False),  # neither "not" nor "No"
        ("Not in the image.", False),
        ("NO", False),
        ("None", False),
        ("nope", False),
        ("no!", False),  # only commas and the dot are taken away
        ("No\nYes", False),  # words are split at spaces only
        ("", False),  # everything else is yes
        (".no", False),
        ("Nein", False),
        ("nо", False),  # with a Cyrillic o
    ],
)
def test_llavas_rule(text, expected):
    assert is_no(text) is expected


def table_of(answers: list[tuple[str, str, str]]):
    """The judged answers of (split, text, label)."""
    questions = [Question(i, (str(i),), "", b"", str(i), split) for i, (split, _, _) in enumerate(answers)]
    return POPE().judge(questions, [label for *_, label in answers], [text for _, text, _ in answers])


def test_scores_of_a_split():
    """TP 2, FP 1, TN 1, FN 1: precision 2/3, recall 2/3, F1 2/3."""
    table = table_of(
        [
            ("random", "Yes", "yes"),
            ("random", "It is", "yes"),
            ("random", "Not", "no"),
            ("random", "No", "no"),
            ("random", "no", "yes"),
            ("popular", "No", "no"),
        ]
    )
    scores = POPE().scores(table, np.ones(6))
    assert scores["random"] == {
        "accuracy": pytest.approx(60),
        "precision": pytest.approx(200 / 3),
        "recall": pytest.approx(200 / 3),
        "f1": pytest.approx(200 / 3),
        "yes_ratio": pytest.approx(0.6),
        "TP": 2,
        "FP": 1,
        "TN": 1,
        "FN": 1,
    }
    # Nothing is answered yes: the published script would divide by zero.
    assert scores["popular"] == {
        **{"accuracy": 100.0, "precision": 0.0, "recall": 0.0, "f1": 0.0, "yes_ratio": 0.0},
        **{"TP": 0, "FP": 0, "TN": 1, "FN": 0},
    }
    assert scores["mean_f1"] == pytest.approx(100 / 3)


def test_scores_by_lmms_eval():
    """
    Exactly yes or no counts: "Yes." is neither. TP 1, FP 1, FN 1, one of four right; two of four labels are yes.
    """
    table = table_of(
        [
            ("random", " YES ", "yes"),
            ("random", "Yes.", "no"),
            ("popular", "yes", "no"),
            ("popular", "No", "yes"),
        ]
    )
    assert POPE().lmms_eval_scores(table, np.ones(4)) == {
        "accuracy": pytest.approx(25),
        "precision": pytest.approx(50),
        "recall": pytest.approx(50),
        "f1": pytest.approx(50),
        "yes_ratio": pytest.approx(0.5),
    }


def test_both_rules_are_reported_by_name(tmp_path):
    files = write_benchmark("pope", tmp_path)
    task = read_task("pope", [files.questions], files.labels)
    report = score_answers(task, files.write_answers(tmp_path / "a.jsonl", q0="Yes, it is"), tmp_path / "out")
    assert report["scores"]["adversarial"]["accuracy"] == 100
    assert report["scores_by_rule"]["llava"] == report["scores"]
    assert report["scores_by_rule"]["lmms_eval"]["accuracy"] == pytest.approx(100 * 11 / 12)


def test_labels_follow_the_order_within_a_split(tmp_path):
    """Ids of labels count from 1 in each split, those of questions through all; answers come in any order."""
    files = write_benchmark("pope", tmp_path)
    shuffled = write_lines(files.right[::-1], tmp_path / "answers.jsonl")
    mixed = read_lines(files.questions)
    order = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]  # the splits take turns
    questions = write_lines([mixed[index] for index in order], tmp_path / "mixed.jsonl")
    report = score_answers(read_task("pope", [questions], files.labels), shuffled, tmp_path / "out")
    assert report["scores"]["mean_f1"] == 100


def test_the_published_misspelling_is_the_same_question(tmp_path):
    files = write_benchmark("pope", tmp_path)
    files.questions.write_text(files.questions.read_text().replace("car in the image", "car in the imange"))
    task = read_task("pope", [files.questions], files.labels)
    assert task.questions[1].first_line == "Is there a car in the imange?" and task.labels[1] == "no"


def test_its_own_files(tmp_path):
    files = write_benchmark("pope", tmp_path)
    task = read_task("pope", [files.labels], images=files.images)
    assert [question.prompt for question in task.questions[:4]] == [row["prompt"] for row in files.right[:4]]
    assert task.labels == ["yes", "no", "yes", "no"] * 3
    assert all(question.image.is_file() for question in task.questions)


def test_submission_for_its_own_script(tmp_path):
    files = write_benchmark("pope", tmp_path)
    task = read_task("pope", [files.questions], files.labels)
    score_answers(task, files.write_answers(tmp_path / "a.jsonl"), tmp_path / "out")
    rows = read_lines(tmp_path / "out" / "submission" / "coco_pope_popular_answers.json")
    assert rows[0] == {"question": "Is there a snowboard in the image?", "answer": "Yes"}
    assert len(rows) == 4
