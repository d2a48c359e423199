# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""MMBench's choice and circular score, worked by hand, and its table."""

import base64

import numpy as np
import openpyxl
import pytest
from benchmark_files import MMBENCH_COLUMNS, mmbench_rows, write_benchmark, write_lines, write_table
from samples import encode_image, make_image

from flashsloth.eval import mmbench
from flashsloth.eval.mmbench import MMBench, choice
from flashsloth.eval.run import read_task, score_answers


OPTIONS = {"A": "a red cat", "B": "a dog", "C": "the bird", "D": "Fish"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("(C).", "C"),
        ("D)", "D"),
        ("Answer: B", "B"),
        ("Answer:B", None),  # no form has a word before the letter
        (":B", "B"),
        ("b", None),  # letters are upper case
        ("A", "A"),
        ("A it is", "A"),  # three words
        ("A it is then", None),  # four: it may be the article
        ("A big dog is B.", "B"),  # then the other forms are tried
        ("A B", None),  # two letters
        ("A. B.", None),
        ("A B.", "A"),
        ("B or C", None),
        ("C. or (D)", "C"),  # "C." comes before "(D)"
        ("A. or B) and C)", "A"),
        ("E", "E"),  # no option, but a letter
        ("F", None),
        ("a dog", "B"),
        ("It is a DOG.", "B"),  # option text, whatever its case
        ("fish", "D"),
        ("a dog and the bird", None),
        ("A dog", "A"),  # the letter wins over the text
        ("", None),
        ("Ｂ", None),
        ("B,", "B"),
        ("B:", "B"),
        ("B\nbecause", "B"),
        ("I would say the bird", "C"),
    ],
)
def test_choice(text, expected):
    assert choice(text, OPTIONS) == expected


def scores_of(rows: list[dict], texts: list[str], tmp_path) -> dict:
    """The scores of answers to rows of the table."""
    task = read_task("mmbench", [write_table(rows, tmp_path / "table.tsv")])
    table = MMBench().judge(task.questions, task.labels, texts)
    return MMBench().scores(table, np.ones(len(rows)))


def test_a_question_counts_only_if_all_its_rows_are_right(tmp_path):
    """The rows: four of question 241 (B, A, D, C), two of question 252 (A, B)."""
    rows = mmbench_rows()
    assert [row["answer"] for row in rows] == ["B", "A", "D", "C", "A", "B"]
    assert scores_of(rows, ["B", "A", "D", "C", "A", "B"], tmp_path) == {
        "circular_accuracy": 100,
        "vanilla_accuracy": 100,
        "l2_category": {"attribute_reasoning": 100, "relation_reasoning": 100},
    }
    # one rotation of the first is wrong, and the first row of the second
    assert scores_of(rows, ["B", "A", "A", "C", "B", "B"], tmp_path) == {
        "circular_accuracy": 0,
        "vanilla_accuracy": 50,
        "l2_category": {"attribute_reasoning": 0, "relation_reasoning": 0},
    }


def test_a_missing_rotation_is_said_and_left_out(tmp_path, caplog):
    """As in lmms-eval, the rows that are there decide. A rotation whose first row is missing does not count."""
    rows = mmbench_rows()
    del rows[2], rows[3]  # the third row of the first question, and the first of the second
    scores = scores_of(rows, ["B", "A", "C", "B"], tmp_path)
    assert scores["circular_accuracy"] == 100
    assert scores["l2_category"] == {"attribute_reasoning": 100, "relation_reasoning": None}
    assert "2 of 2 questions have fewer rows than options" in caplog.text


def test_prompt(tmp_path):
    task = read_task("mmbench", [write_benchmark("mmbench", tmp_path).questions])
    assert task.questions[1].prompt == (
        "Look closely.\nWhich one?\nA. a dog\nB. a bird\nC. a fish\nD. a red cat\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert task.questions[4].prompt == (
        "Which one?\nA. left\nB. right\nAnswer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize("nothing", ["nan", "None", "NaN", "", "N/A"])
def test_values_that_stand_for_none(nothing, tmp_path):
    rows = mmbench_rows()[4:]
    rows = [{**row, "hint": nothing, "C": nothing, "image": mmbench_rows()[0]["image"]} for row in rows]
    task = read_task("mmbench", [write_table(rows, tmp_path / "table.tsv")])
    assert task.questions[0].prompt.splitlines()[:3] == ["Which one?", "A. left", "B. right"]


def test_an_image_may_be_that_of_another_row(tmp_path):
    task = read_task("mmbench", [write_benchmark("mmbench", tmp_path).questions])
    assert {question.image for question in task.questions} == {base64.b64decode(mmbench_rows()[0]["image"])}
    assert len({question.image_name for question in task.questions}) == 1


def test_submission_for_the_server(tmp_path):
    files = write_benchmark("mmbench", tmp_path)
    task = read_task("mmbench", [files.questions])
    answers = files.write_answers(tmp_path / "a.jsonl", q1="=B\x00")
    score_answers(task, answers, tmp_path / "out")
    sheet = openpyxl.load_workbook(tmp_path / "out" / "submission" / "mmbench.xlsx").active
    header, first, second, *_ = sheet.iter_rows(values_only=True)
    assert header == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert first == (241, "Which one?", "a red cat", "a dog", "a bird", "a fish", "B", "B", "dev")
    assert second[0] == 1000241 and second[6] == "=B"  # text, not a formula
    assert sheet.max_row == 7


def test_the_test_split_has_a_submission_and_no_score(tmp_path):
    rows = [{**row, "split": "test"} for row in mmbench_rows()]
    columns = [name for name in MMBENCH_COLUMNS if name != "answer"]
    task = read_task("mmbench", [write_table(rows, tmp_path / "test.tsv", columns)])
    answers = [{"question_id": row["index"], "text": "A"} for row in rows]
    report = score_answers(task, write_lines(answers, tmp_path / "a.jsonl"), tmp_path / "out")
    assert report["scores"] == {}
    sheet = openpyxl.load_workbook(tmp_path / "out" / "submission" / "mmbench.xlsx").active
    assert [cell.value for cell in sheet[1]] == ["index", "question", "A", "B", "C", "D", "prediction", "split"]


def test_images_in_lines_of_base64(tmp_path):
    """Some tables break the text of an image into lines."""
    wrapped = base64.encodebytes(encode_image(make_image(0))).decode()
    assert "\n" in wrapped.strip()
    row = {"index": "1", "image": wrapped}
    assert mmbench._image(row, {1: row}) == encode_image(make_image(0))
