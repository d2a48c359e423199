# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""MMBench's choice and circular score, worked by hand, and its table."""

import base64
import json

import numpy as np
import openpyxl
import pytest
from benchmark_files import MMBENCH_COLUMNS, mmbench_rows, read_lines, write_benchmark, write_lines, write_table
from samples import encode_image, make_image

from flashsloth import cli
from flashsloth.eval import mmbench
from flashsloth.eval.mmbench import MMBench, choice
from flashsloth.eval.report import evaluations
from flashsloth.eval.run import read_task, score_answers
from flashsloth.loading import SHIPPED_CHECKPOINT


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


def rows_of_two_options(**cells: str) -> list[dict]:
    """The two rows of question 252, with other values in some cells."""
    first, *_, left, right = mmbench_rows()
    return [row | {"image": first["image"]} | cells for row in (left, right)]


@pytest.mark.parametrize("nothing", ["nan", "NaN", "", " "])
def test_cells_without_an_option(nothing, tmp_path):
    """An empty one, and what pandas makes of it. The options end at the first of them."""
    rows = rows_of_two_options(hint=nothing, C=nothing, D="up")
    task = read_task("mmbench", [write_table(rows, tmp_path / "table.tsv")])
    assert task.questions[0].prompt.splitlines()[:-1] == ["Which one?", "A. left", "B. right"]
    assert choice("D", mmbench.options_of(rows[0])) == "D" and choice("It is up.", mmbench.options_of(rows[0])) is None


@pytest.mark.parametrize("hint", ["None", "NONE", "N/A", "NA", "null", "#N/A"])
def test_hints_that_say_nothing(hint, tmp_path):
    task = read_task("mmbench", [write_table(rows_of_two_options(hint=hint), tmp_path / "table.tsv")])
    assert task.questions[0].prompt.startswith("Which one?")


@pytest.mark.parametrize("text", ["None", "NA", "N/A", "null", "n/a"])
def test_an_option_may_have_a_text_that_pandas_drops(text, tmp_path, caplog):
    """Its rotations are asked, scored and handed in as those of all others."""
    options = ["Three", text, "Two"]
    rows = []
    for rotation in range(3):
        cells = dict(zip("ABC", options[rotation:] + options[:rotation], strict=True))
        answer = next(letter for letter, cell in cells.items() if cell == text)
        row = rows_of_two_options()[0] | cells | {"answer": answer}
        rows.append(row | {"index": 252 + rotation * 1_000_000})
    task = read_task("mmbench", [write_table(rows, tmp_path / "table.tsv")])
    assert [question.prompt.splitlines()[1:-1] for question in task.questions] == [
        ["A. Three", f"B. {text}", "C. Two"],
        [f"A. {text}", "B. Two", "C. Three"],
        ["A. Two", "B. Three", f"C. {text}"],
    ]
    assert scores_of(rows, ["B", f"It is {text}.", "C"], tmp_path)["circular_accuracy"] == 100
    assert scores_of(rows, ["B", "B", "C"], tmp_path)["circular_accuracy"] == 0
    assert caplog.text == ""
    answers = write_lines([{"question_id": row["index"], "text": "A"} for row in rows], tmp_path / "a.jsonl")
    score_answers(task, answers, tmp_path / "out")
    sheet = openpyxl.load_workbook(tmp_path / "out" / "submission" / "mmbench.xlsx").active
    cells = [[cell.value for cell in row][2:6] for row in sheet.iter_rows(min_row=2)]
    assert cells == [["Three", text, "Two", None], [text, "Two", "Three", None], ["Two", "Three", text, None]]


def test_a_label_that_is_no_option_counts_by_its_letter(tmp_path, caplog):
    rows = rows_of_two_options()
    rows[0]["answer"] = "C"
    task = read_task("mmbench", [write_table(rows, tmp_path / "table.tsv")])
    assert task.labels == ["C", "B"]
    assert "The answers to 1 of 2 rows, 252 among them, are options whose cells are empty" in caplog.text
    assert scores_of(rows, ["A", "B"], tmp_path)["vanilla_accuracy"] == 0
    assert scores_of(rows, ["C", "B"], tmp_path)["vanilla_accuracy"] == 100


def refused(rows: list[dict], tmp_path, columns=MMBENCH_COLUMNS) -> str:
    with pytest.raises(ValueError) as caught:
        read_task("mmbench", [write_table(rows, tmp_path / "table.tsv", columns)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("filler", ["None", "NA", "null"])
def test_cells_that_another_program_filled_are_refused(filler, tmp_path):
    """Two of them are no two options; one alone could be one."""
    message = refused(rows_of_two_options(C=filler, D=filler), tmp_path)
    assert f"row 1: the options C and D are '{filler}' and '{filler}': leave the cells of options" in message


@pytest.mark.parametrize("answer", ["E", "", "b", "left", "AB"])
def test_a_label_that_is_no_letter_is_refused(answer, tmp_path):
    message = refused([row | {"answer": answer} for row in mmbench_rows()], tmp_path)
    assert f"table.tsv: the answer {answer!r} of question 241 is none of A, B, C, D" in message


def test_another_table_is_refused_with_the_page_of_the_format(tmp_path):
    message = refused(mmbench_rows(), tmp_path, ["index", "question"])
    assert "has no column 'hint', but index, question. docs/evaluation.md shows the format." in message


def test_an_index_of_any_length_is_one_line(tmp_path):
    message = refused([row | {"index": 5000 * "9"} for row in mmbench_rows()], tmp_path)
    assert "row 1: the index '999" in message and len(message) < 300


@pytest.mark.parametrize("has_answers", [True, False])
def test_rows_of_dev_and_test_are_not_mixed(has_answers, tmp_path, capsys):
    """In one table, or in two."""
    dev, test = mmbench_rows()[:4], [row | {"split": "test", "answer": ""} for row in rows_of_two_options()]
    files = [write_table([*dev, *test], tmp_path / "both.tsv")]
    if not has_answers:
        columns = [name for name in MMBENCH_COLUMNS if name != "answer"]
        files = [write_table(dev, tmp_path / "dev.tsv"), write_table(test, tmp_path / "test.tsv", columns)]
    answers = write_lines([{"question_id": row["index"], "text": "A"} for row in [*dev, *test]], tmp_path / "a.jsonl")
    command = ["eval", "--task", "mmbench", "--questions", *map(str, files), "--answers", str(answers)]
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "flashsloth eval: error: The questions are of several splits, 4 of 'dev', 2 of 'test': those of 'test' have "
        "no labels. Name the table of one split. docs/evaluation.md shows the format.\n"
    )
    assert not (tmp_path / "out").exists()


# Chinese


def chinese_rows() -> list[dict]:
    """The rows in Chinese, but for one question about a text in English."""
    words = {"a red cat": "红猫", "a dog": "狗", "a bird": "鸟", "a fish": "鱼"}
    words |= {"Which one?": "是哪一个？", "Look closely.": "请仔细看。"}
    rows = [{name: words.get(cell, cell) for name, cell in row.items()} for row in mmbench_rows()]
    return [*rows[:4], *(row | {"question": "left or right?"} for row in rows[4:])]


def test_a_table_is_asked_in_the_language_of_most_of_its_questions(tmp_path):
    task = read_task("mmbench", [write_table(chinese_rows(), tmp_path / "table.tsv")])
    assert task.questions[1].prompt == ("请仔细看。\n是哪一个？\nA. 狗\nB. 鸟\nC. 鱼\nD. 红猫\n请直接回答选项字母。")
    assert task.questions[4].prompt == "left or right?\nA. left\nB. right\n请直接回答选项字母。"
    # The name of a file says nothing, and neither do a few questions.
    rows = mmbench_rows()
    rows[0]["question"] = "是哪一个？"
    task = read_task("mmbench", [write_table(rows, tmp_path / "mmbench_dev_cn_20231003.tsv")])
    ends = {question.prompt.splitlines()[-1] for question in task.questions}
    assert ends == {"Answer with the option's letter from the given choices directly."}


def test_tables_of_two_languages_are_refused(tmp_path):
    files = [write_table(mmbench_rows(), tmp_path / "en.tsv"), write_table(chinese_rows(), tmp_path / "cn.tsv")]
    with pytest.raises(ValueError, match="^Some of the tables are in Chinese and others are not: name those of one"):
        read_task("mmbench", files)


def test_chinese_from_question_file_to_score(tmp_path, capsys):
    rows = chinese_rows()
    table = write_table(rows, tmp_path / "mmbench_dev_cn_20231003.tsv")
    command = ["eval", "--task", "mmbench", "--questions", str(table)]
    asked = ["--model", str(SHIPPED_CHECKPOINT), "--output", str(tmp_path / "asked")]
    assert cli.main([*command, *asked]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    answers = read_lines(tmp_path / "asked" / "answers.jsonl")
    assert [row["question_id"] for row in answers] == [row["index"] for row in rows]
    assert answers[0]["prompt"].endswith("D. 鱼\n请直接回答选项字母。")
    assert answers[0]["options"] == ["红猫", "狗", "鸟", "鱼"]
    given = ["--answers", str(tmp_path / "asked" / "answers.jsonl"), "--output", str(tmp_path / "given")]
    assert cli.main([*command, *given]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scores"] == scores


def test_chinese_scores_stand_under_a_title_of_their_own(tmp_path):
    """So that those of one language do not replace those of the other in a model folder."""
    names = []
    for rows in (mmbench_rows(), chinese_rows()):
        task = read_task("mmbench", [write_table(rows, tmp_path / "table.tsv")])
        answers = write_lines([{"question_id": row["index"], "text": row["answer"]} for row in rows], tmp_path / "a")
        report = score_answers(task, answers, tmp_path / "out")
        names += {entry["dataset"]["name"] for entry in evaluations(task.benchmark, report)}
    assert names == ["MMB", "MMB-CN"]


def test_chinese_answers_and_the_submission(tmp_path):
    rows = chinese_rows()
    task = read_task("mmbench", [write_table(rows, tmp_path / "table.tsv")])
    texts = ["B", "图中是狗。", "D.", "(C)", "A", "right"]
    answers = [{"question_id": row["index"], "text": text} for row, text in zip(rows, texts, strict=True)]
    report = score_answers(task, write_lines(answers, tmp_path / "a.jsonl"), tmp_path / "out")
    assert report["scores"]["circular_accuracy"] == 50 and report["scores"]["vanilla_accuracy"] == 100
    sheet = openpyxl.load_workbook(tmp_path / "out" / "submission" / "mmbench.xlsx").active
    header, first, second, *_ = sheet.iter_rows(values_only=True)
    assert header == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert first == (241, "是哪一个？", "红猫", "狗", "鸟", "鱼", "B", "B", "dev")
    assert second[6] == "图中是狗。"


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


def test_labels_of_their_own_are_refused(tmp_path):
    table = write_table(mmbench_rows(), tmp_path / "table.tsv")
    with pytest.raises(ValueError, match="MMB's labels are in its question files: leave out --labels"):
        read_task("mmbench", [table], labels=table)
