# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""MME's two rules, worked by hand, and its files."""

import numpy as np
import pytest
from benchmark_files import write_benchmark

from flashsloth.eval.mme import MME, parse, parse_like_lmms_eval, question_in
from flashsloth.eval.questions import Question
from flashsloth.eval.run import read_task, score_answers


@pytest.mark.parametrize(
    ("text", "by_mme", "by_lmms_eval"),
    [
        ("Yes", "yes", "yes"),
        ("no", "no", "no"),
        ("NO.", "no", "no"),
        ("Yes, it is.", "yes", "yes"),
        ("Not at all", "no", "no"),  # "not " holds "no"
        ("None", "no", "no"),
        ("know", "no", "no"),
        (" yes", "yes", "yes"),
        ("  yes", "other", "yes"),  # "  ye"; lmms-eval strips first
        ("a no", "no", "no"),  # within the first four characters
        ("It: no", "other", "other"),  # behind them
        ("eyes", "yes", "yes"),
        ("noyes", "no", "no"),  # "noye"
        ("nyes", "yes", "yes"),  # "yes" is looked for first
        ("y", "other", "yes"),
        ("N.", "other", "no"),
        ("y.e.s", "other", "yes"),
        ("", "other", "other"),
        ("ｙes", "other", "other"),
        ("是", "other", "other"),
        ("n", "other", "no"),
        ("1", "other", "other"),
    ],
)
def test_rules(text, by_mme, by_lmms_eval):
    assert parse(text) == by_mme
    assert parse_like_lmms_eval(text) == by_lmms_eval


def table_of(answers: list[tuple[str, str, str, str]]):
    """The judged answers of (category, image, text, label)."""
    questions = [
        Question(f"{category}/{image}", (category, image, str(number)), "", b"", f"{category}/{image}", category)
        for number, (category, image, _, _) in enumerate(answers)
    ]
    return MME().judge(questions, [label for *_, label in answers], [text for _, _, text, _ in answers])


def test_a_category_adds_accuracy_and_the_share_of_images_with_both_right():
    """
    Existence: 3 of 4 right, 1 of 2 images: 75 + 50. Color: 1 of 2, no image: 50 + 0. Code: 2 of 2, 1 of 1: 200. Images
    of two categories may share a name.
    """
    table = table_of(
        [
            ("existence", "1.png", "Yes", "Yes"),
            ("existence", "1.png", "No", "No"),
            ("existence", "2.png", "Yes", "Yes"),
            ("existence", "2.png", "Yes", "No"),
            ("color", "1.png", "yes", "Yes"),
            ("color", "1.png", "perhaps", "No"),
            ("code_reasoning", "1.png", "y", "Yes"),
            ("code_reasoning", "1.png", "no", "No"),
        ]
    )
    scores = MME().scores(table, np.ones(8))
    # "y" is no answer by MME's rule: 1 of 2, no image
    assert scores["categories"] == {"existence": 125, "color": 50, "code_reasoning": 50}
    assert (scores["perception"], scores["cognition"]) == (175, 50)
    assert MME().lmms_eval_scores(table, np.ones(8))["cognition"] == 200


def test_a_half_without_questions_has_no_score():
    table = table_of([("OCR", "1.png", "Yes", "Yes"), ("OCR", "1.png", "No", "No")])
    scores = MME().scores(table, np.ones(2))
    assert (scores["perception"], scores["cognition"]) == (200, None)


def test_questions_match_whatever_sentence_follows_them():
    assert question_in("Is it?  Please answer yes or no.") == "Is it?"
    assert question_in("Is it?\nAnswer the question using a single word or phrase.") == "Is it?"


def test_files(tmp_path):
    """Categories with and without folders of their own for images and labels; labels match by id and question."""
    files = write_benchmark("mme", tmp_path)
    task = read_task("mme", [files.questions], files.labels)
    assert [(q.category, q.labels) for q, q.labels in []] == []
    assert task.labels == ["Yes", "No"] * 6
    assert all(question.image.is_file() for question in task.questions)
    own = read_task("mme", [files.labels])
    assert sorted(q.key for q in own.questions) == sorted(q.key for q in task.questions)
    assert {q.key: q.prompt for q in own.questions} == {q.key: q.prompt for q in task.questions}
    assert all(question.image.is_file() for question in own.questions)


def test_submission_for_its_own_script(tmp_path):
    files = write_benchmark("mme", tmp_path)
    task = read_task("mme", [files.questions], files.labels)
    score_answers(task, files.write_answers(tmp_path / "a.jsonl", q1="No,\tit\nis not"), tmp_path / "out")
    lines = (tmp_path / "out" / "submission" / "mme" / "existence.txt").read_text().splitlines()
    assert lines[:2] == [
        "0001.png\tIs there a cat 1? Please answer yes or no.\tYes\tYes",
        "0001.png\tIs there a dog 1? Please answer yes or no.\tNo\tNo, it is not",
    ]
    assert len(lines) == 4
