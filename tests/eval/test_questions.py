# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Bad input is one clear line, before anything is asked."""

import json
import subprocess
import sys

import pytest
from benchmark_files import TASKS, mmbench_rows, read_lines, write_benchmark, write_lines, write_table

from flashsloth import cli
from flashsloth.eval.questions import fingerprint_of_questions, read_rows
from flashsloth.eval.run import read_task
from flashsloth.loading import SHIPPED_CHECKPOINT


def edit_lines(file, change):
    """Rewrites JSON lines by a function of all of them."""
    write_lines(change(read_lines(file)), file)


def without(field):
    return lambda files: edit_lines(
        files.questions, lambda rows: [{k: v for k, v in row.items() if k != field} for row in rows]
    )


def twice(files):
    edit_lines(files.questions, lambda rows: [*rows, rows[0]])


def of_task(task):
    """The questions of another benchmark in the place of its own."""
    return lambda files: files.questions.write_text(
        write_benchmark(task, files.questions.parent / "other").questions.read_text()
    )


def change_question(number, **fields):
    return lambda files: edit_lines(
        files.questions, lambda rows: [row | fields if i == number else row for i, row in enumerate(rows)]
    )


def remove_image(files):
    next(file for file in sorted(files.questions.parent.rglob("*.*g")) if file.suffix in (".jpg", ".png")).unlink()


def change_labels(change):
    def edit(files):
        content = json.loads(files.labels.read_text())
        files.labels.write_text(json.dumps(change(content) or content))

    return edit


def change_split(change):
    return lambda files: edit_lines(files.labels / "coco_pope_popular.json", change)


def change_table(change):
    return lambda files: write_table(change(mmbench_rows()), files.questions)


def change_mme(text):
    return lambda files: (files.labels / "existence" / "0001.txt").write_text(text)


def rename_labels(name):
    return lambda files: files.labels.rename(files.labels.with_name(name))


def write_questions(text):
    return lambda files: files.questions.write_text(text)


def drop_column(name):
    rows = mmbench_rows()
    columns = [column for column in rows[0] if column != name]
    return lambda files: write_table(rows, files.questions, columns)


BAD_INPUT = [
    # a question file of another benchmark
    ("gqa", of_task("pope"), "looks like the questions of pope, not of gqa"),
    ("gqa", of_task("mme"), "looks like the questions of mme, not of gqa"),
    ("gqa", of_task("textvqa"), "looks like the questions of textvqa, not of gqa"),
    ("pope", of_task("gqa"), "looks like the questions of gqa, not of pope"),
    ("mme", of_task("pope"), "looks like the questions of pope, not of mme"),
    ("textvqa", of_task("gqa"), "looks like the questions of gqa, not of textvqa"),
    ("textvqa", of_task("mmbench"), "line 1 is not JSON"),
    ("mmbench", of_task("gqa"), "is not MMBench's table: it has no column 'index'"),
    # a missing field or column
    ("gqa", without("question_id"), "line 1 has no 'question_id'; it has 'image', 'text', 'category'"),
    ("pope", without("image"), "line 1 has no 'image'"),
    ("mme", without("text"), "line 1 has no 'text'"),
    ("mmbench", drop_column("question"), "it has no column 'question'"),
    ("mmbench", drop_column("l2-category"), "it has no column 'l2-category'"),
    ("mmbench", drop_column("answer"), "has no column 'answer', which only the split 'test' lacks"),
    # duplicates
    ("gqa", twice, "The question '201307251' is there 2 times"),
    ("pope", twice, "The question '0' is there 2 times"),
    ("textvqa", twice, "is there 2 times: take out its duplicates"),
    ("mme", twice, "MME asks two questions about each image, but 3 about existence/0001.png"),
    ("mmbench", change_table(lambda rows: [*rows, rows[0]]), "The question '241' is there 2 times"),
    # an image that is gone
    *[(task, remove_image, "images are not there") for task in TASKS if task != "mmbench"],
    ("mmbench", change_table(lambda rows: [rows[0] | {"image": "7"}]), "The image of MMBench's question 241 is gone"),
    ("mmbench", change_table(lambda rows: [rows[0] | {"image": "241"}]), "'241' is neither base64 nor the index"),
    ("mmbench", change_table(lambda rows: [rows[0] | {"image": ""}]), "The image of MMBench's question 241 is gone"),
    # labels of other questions
    ("gqa", change_labels(lambda labels: labels.pop("201640614") and None), "has no label of question '201640614'"),
    (
        "gqa",
        change_question(0, text="Is it sunny?\nAnswer"),
        "has the label of another question with the id '201307251'",
    ),
    ("gqa", change_labels(lambda labels: {"a": {}}), "question 'a' has no 'answer'"),
    ("gqa", change_labels(lambda labels: [1]), "is not GQA's file of questions"),
    ("pope", change_split(lambda rows: rows[::-1]), "label 1 is of 'Is there a knife in the image?'"),
    ("pope", change_split(lambda rows: [row | {"image": "x.jpg"} for row in rows]), "label 1 is of 'x.jpg'"),
    ("pope", change_split(lambda rows: rows[:3]), "has 3 labels, but there are more questions of that split"),
    ("pope", change_split(lambda rows: [row | {"label": "maybe"} for row in rows]), "neither yes nor no"),
    ("pope", change_question(0, category="easy"), "has the category 'easy', which is none of random, popular"),
    (
        "mme",
        change_mme("Is there a cow?\tYes\nIs there a pig?\tNo\n"),
        "has no label of the question 'Is there a cat 1?'",
    ),
    ("mme", change_mme("Is there a cat 1?"), "is not a question, a tab, and Yes or No"),
    ("mme", change_question(0, question_id="magic/1.png"), "has the unknown category 'magic'"),
    ("mme", rename_labels("gone"), "has no labels of the category existence"),
    ("textvqa", change_labels(lambda labels: {"data": labels["data"][1:]}), "has no label of the question"),
    ("textvqa", change_labels(lambda labels: {"rows": []}), "must hold a list under 'data'"),
    ("textvqa", change_labels(lambda labels: labels["data"][0]["answers"].pop() and None), "has 9 instead of 10"),
    ("mmbench", change_table(lambda rows: [rows[0] | {"answer": "E"}]), "the answer 'E' of question 241 is none of"),
    ("mmbench", change_table(lambda rows: [rows[0] | {"index": "first"}]), "the index 'first' is not a whole number"),
    # damaged files
    ("gqa", write_questions(""), "holds no questions"),
    ("gqa", write_questions("[1, 2]\n"), "line 1 holds a list, not a JSON object"),
    ("pope", write_questions('{"question_id": 1, "image": '), "line 1 is not JSON"),
    ("gqa", lambda files: files.questions.write_bytes(b"\xff\xfe"), "is not text in UTF-8"),
    ("gqa", lambda files: files.questions.unlink(), "is not there: name the question file of GQA"),
    ("gqa", rename_labels("gone.json"), "is not there"),
]


@pytest.mark.parametrize(("benchmark", "spoil", "message"), BAD_INPUT, indirect=["benchmark"])
def test_bad_input_is_one_line_before_anything_is_asked(benchmark, spoil, message, tmp_path, capsys, monkeypatch):
    from flashsloth import loading

    monkeypatch.setattr(loading, "load_model_and_processor", None)  # the model is not even loaded
    spoil(benchmark)
    output = tmp_path / "out"
    arguments = ["eval", *benchmark.arguments, "--model", str(SHIPPED_CHECKPOINT), "--output", str(output)]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("flashsloth eval: error: ") and message in line
    assert not output.exists()


BAD_ANSWERS = [
    (lambda rows: rows[1:], "lacks the answers to 1 of"),
    (lambda rows: [*rows, rows[0]], "twice"),
    (lambda rows: [*rows, rows[0] | {"question_id": "existence/9"}], "which is none of the questions"),
    (lambda rows: [{"question_id": row["question_id"]} for row in rows], "line 1 has no 'text'"),
    (lambda rows: [row | {"text": None} for row in rows], "must be text"),
    (lambda rows: [], "lacks the answers to"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ANSWERS)
def test_answers_that_do_not_match(any_benchmark, change, message, tmp_path, capsys):
    answers = write_lines(change(any_benchmark.right), tmp_path / "answers.jsonl")
    output = tmp_path / "out"
    arguments = ["eval", *any_benchmark.arguments, "--answers", str(answers), "--output", str(output)]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err.splitlines()[-1]
    assert not output.exists()


@pytest.mark.parametrize("benchmark", ["gqa", "pope"], indirect=True)
def test_answers_to_other_questions_with_the_same_ids(benchmark, tmp_path, capsys):
    rows = [row | {"prompt": "What else is there?"} for row in benchmark.right]
    answers = write_lines(rows, tmp_path / "answers.jsonl")
    arguments = ["eval", *benchmark.arguments, "--answers", str(answers), "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "answers another question with the id" in capsys.readouterr().err


def test_separators_of_unicode_do_not_end_a_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\r\n\n", encoding="utf-8")
    assert read_rows(file) == [{"text": "a\u2028b"}]


def test_fingerprint_does_not_depend_on_order_or_place(any_benchmark, tmp_path):
    task = read_task(any_benchmark.task, [any_benchmark.questions], any_benchmark.labels, any_benchmark.images)
    copy = write_benchmark(any_benchmark.task, tmp_path / "elsewhere")
    again = read_task(copy.task, [copy.questions], copy.labels, copy.images)
    fingerprint = fingerprint_of_questions(task.questions, task.labels)
    assert fingerprint == fingerprint_of_questions(again.questions[::-1], again.labels[::-1])
    labels = again.labels[:-1] + [{"answer": "else"}]
    other = fingerprint_of_questions(again.questions, labels)
    assert other["labels"] != fingerprint["labels"] and other["questions"] == fingerprint["questions"]


def test_given_answers_are_scored_without_torch(any_benchmark, tmp_path):
    answers = any_benchmark.write_answers(tmp_path / "answers.jsonl")
    arguments = ["eval", *any_benchmark.arguments, "--answers", str(answers), "--output", str(tmp_path / "out")]
    code = (
        "import sys\nfrom flashsloth import cli\nassert cli.main(sys.argv[1:]) == 0\n"
        "sys.exit(str([name for name in ('torch', 'transformers') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert json.loads(done.stdout.splitlines()[-1])["task"] == any_benchmark.task
