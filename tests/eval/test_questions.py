# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Bad input is one clear line, before anything is asked."""

import json
import subprocess
import sys

import pytest
from benchmark_files import TASKS, mmbench_rows, read_lines, write_benchmark, write_lines, write_table

from flashsloth import cli
from flashsloth.eval.files import read_rows
from flashsloth.eval.questions import fingerprint_of_questions, last_labels
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


def repeat_label(**fields):
    """GQA's label of the first question once more, with other fields; `json.dumps` would not write a key twice."""

    def edit(files):
        content = json.loads(files.labels.read_text())
        name = next(iter(content))
        again = json.dumps({name: content[name] | fields})
        files.labels.write_text(f"{json.dumps(content)[:-1]}, {again[1:]}")

    return edit


def write_labels(text):
    return lambda files: files.labels.write_text(text)


def change_first_line(old, new):
    return lambda files: files.questions.write_text(files.questions.read_text().replace(old, new, 1))


# What is spoiled: the benchmark, a function of its files, and a part of the message.
BAD_INPUT = {
    # a question file of another benchmark
    "GQA: the questions of POPE": ("gqa", of_task("pope"), "looks like the questions of pope, not of gqa"),
    "GQA: the questions of MME": ("gqa", of_task("mme"), "looks like the questions of mme, not of gqa"),
    "GQA: the questions of TextVQA": ("gqa", of_task("textvqa"), "looks like the questions of textvqa, not of gqa"),
    "POPE: the questions of GQA": ("pope", of_task("gqa"), "looks like the questions of gqa, not of pope"),
    "MME: the questions of POPE": ("mme", of_task("pope"), "looks like the questions of pope, not of mme"),
    "TextVQA: the questions of GQA": ("textvqa", of_task("gqa"), "looks like the questions of gqa, not of textvqa"),
    "TextVQA: MMBench's table": ("textvqa", of_task("mmbench"), "line 1 is not JSON"),
    "MMBench: the questions of GQA": (
        "mmbench",
        of_task("gqa"),
        "is not MMBench's table: it has no column 'index'",
    ),
    # a missing field or column
    "no question_id": (
        "gqa",
        without("question_id"),
        "line 1 has no 'question_id'; it has 'image', 'text', 'category'",
    ),
    "no image": ("pope", without("image"), "line 1 has no 'image'"),
    "no text": ("mme", without("text"), "line 1 has no 'text'"),
    "a table without questions": ("mmbench", drop_column("question"), "it has no column 'question'"),
    "a table without categories": ("mmbench", drop_column("l2-category"), "it has no column 'l2-category'"),
    "a table without answers": (
        "mmbench",
        drop_column("answer"),
        "has no column 'answer', which only the split 'test' lacks",
    ),
    # a field of another type
    "an id of null": ("gqa", change_question(1, question_id=None), "line 2: its 'question_id' is None, not text or a"),
    "an id of true": ("pope", change_question(0, question_id=True), "its 'question_id' is True, not text or a whole"),
    "an id of 1.5": (
        "gqa",
        change_question(0, question_id=1.5),
        "its 'question_id' is 1.5, not text or a whole number",
    ),
    "an id of 5,000 digits": (
        "pope",
        change_first_line(": 0,", f": {'9' * 5000},"),
        "line 1 holds a number of 5000 digits",
    ),
    "a text of null": ("textvqa", change_question(0, text=None), "line 1: its 'text' is None, not text"),
    "a list of images": ("gqa", change_question(0, image=["a.jpg"]), "line 1: its 'image' is ['a.jpg'], not text"),
    "an id of MME without its image": ("mme", change_question(0, question_id="existence"), "but 1 about 'existence/'"),
    "an id of MME that is a number": ("mme", change_question(0, question_id=5), "has the unknown category '5'"),
    "a name that no file can have": ("gqa", change_question(0, image="x" * 5000), "images are not there"),
    "a name with a null byte": ("gqa", change_question(0, image="a\0.jpg"), "images are not there"),
    # duplicates
    "GQA: a question twice": ("gqa", twice, "The question '201307251' is there 2 times"),
    "POPE: a question twice": ("pope", twice, "The question '0' is there 2 times"),
    "TextVQA: a question twice": ("textvqa", twice, "is there 2 times: take out its duplicates"),
    "MME: a question twice": (
        "mme",
        twice,
        "two questions about each image, but 3 about 'existence/0001.png'",
    ),
    "MMBench: a row twice": (
        "mmbench",
        change_table(lambda rows: [*rows, rows[0]]),
        "The question '241' is there 2 times",
    ),
    # an image that is gone
    **{
        f"{task}: an image that is gone": (task, remove_image, "images are not there")
        for task in TASKS
        if task != "mmbench"
    },
    "the index of no row in the place of an image": (
        "mmbench",
        change_table(lambda rows: [rows[0] | {"image": "7"}]),
        "The image of MMBench's question 241 is gone",
    ),
    "its own index in the place of an image": (
        "mmbench",
        change_table(lambda rows: [rows[0] | {"image": "241"}]),
        "'241' is neither base64 nor the index",
    ),
    "nothing in the place of an image": (
        "mmbench",
        change_table(lambda rows: [rows[0] | {"image": ""}]),
        "The image of MMBench's question 241 is gone",
    ),
    # labels of other questions
    "GQA: a label too few": (
        "gqa",
        change_labels(lambda labels: labels.pop("201640614") and None),
        "has no label of question '201640614'",
    ),
    "GQA: another question with the same id": (
        "gqa",
        change_question(0, text="Is it sunny?\nAnswer"),
        "has the label of another question with the id '201307251'",
    ),
    "GQA: an entry without a label": ("gqa", change_labels(lambda labels: {"a": {}}), "question 'a' has no 'answer'"),
    "GQA: a list of labels": ("gqa", change_labels(lambda labels: [1]), "is not GQA's file of questions"),
    "GQA: a field of a label twice": (
        "gqa",
        write_labels('{"1": {"answer": "yes", "types": {}, "answer": "no"}}'),
        "testdev_balanced_questions.json holds the key 'answer' twice",
    ),
    "POPE: labels in another order": (
        "pope",
        change_split(lambda rows: rows[::-1]),
        "label 1 is of 'Is there a knife in the image?'",
    ),
    "POPE: labels about other images": (
        "pope",
        change_split(lambda rows: [row | {"image": "x.jpg"} for row in rows]),
        "label 1 is of 'x.jpg'",
    ),
    "POPE: a label too few": (
        "pope",
        change_split(lambda rows: rows[:3]),
        "has 3 labels, but there are more questions of that split",
    ),
    "POPE: a label that is neither": (
        "pope",
        change_split(lambda rows: [row | {"label": "maybe"} for row in rows]),
        "neither yes nor no",
    ),
    "POPE: an unknown split": (
        "pope",
        change_question(0, category="easy"),
        "has the category 'easy', which is none of random, popular",
    ),
    "POPE: a file of labels in the place of their folder": (
        "pope",
        lambda files: files.labels.rename(files.labels.with_name("was")) and files.labels.touch(),
        "is no folder: name the one that holds coco_pope_random.json",
    ),
    "MME: other questions about an image": (
        "mme",
        change_mme("Is there a cow?\tYes\nIs there a pig?\tNo\n"),
        "has no label of the question 'Is there a cat 1?'",
    ),
    "MME: a line without a label": ("mme", change_mme("Is there a cat 1?"), "is not a question, a tab, and Yes or No"),
    "MME: an unknown category": (
        "mme",
        change_question(0, question_id="magic/1.png"),
        "has the unknown category 'magic': an id is 'CATEGORY/IMAGE'",
    ),
    "MME: no labels": ("mme", rename_labels("gone"), "has no labels of the category existence"),
    "TextVQA: a label too few": (
        "textvqa",
        change_labels(lambda labels: {"data": labels["data"][1:]}),
        "has no label of the question",
    ),
    "TextVQA: no data": ("textvqa", change_labels(lambda labels: {"rows": []}), "must hold a list under 'data'"),
    "TextVQA: nine answers": (
        "textvqa",
        change_labels(lambda labels: labels["data"][0]["answers"].pop() and None),
        "has 9 instead of 10",
    ),
    "MMBench: a label that is no option": (
        "mmbench",
        change_table(lambda rows: [rows[0] | {"answer": "E"}]),
        "the answer 'E' of question 241 is none of",
    ),
    "MMBench: an index that is no number": (
        "mmbench",
        change_table(lambda rows: [rows[0] | {"index": "first"}]),
        "the index 'first' is not a whole number",
    ),
    # damaged files
    "no questions": ("gqa", write_questions(""), "holds no questions"),
    "a list in the place of a question": ("gqa", write_questions("[1, 2]\n"), "line 1 is a list, not an object"),
    "half a question": ("pope", write_questions('{"question_id": 1, "image": '), "line 1 is not JSON"),
    "a field of a question twice": (
        "gqa",
        write_questions('{"question_id": "1", "text": "a", "image": "a", "text": "b"}'),
        "line 1 holds the key 'text' twice",
    ),
    "NaN": ("gqa", write_questions('{"question_id": NaN}'), "line 1 is not JSON: it holds NaN"),
    "a number without end": ("gqa", write_questions('{"question_id": 1e999}'), "holds the number 1e999, which is too"),
    "lists within lists, 100,000 deep": (
        "gqa",
        write_questions("[" * 100_000),
        "line 1 holds lists or objects that are nested too deeply",
    ),
    "labels nested 100,000 deep": (
        "textvqa",
        write_labels('{"data": ' + "[" * 100_000),
        "TextVQA_0.5.1_val.json holds lists or objects that are nested too deeply",
    ),
    "half of a surrogate pair": (
        "gqa",
        change_question(0, text="Is it overcast \ud83d?"),
        "line 1 holds '\\ud83d', half of a surrogate pair",
    ),
    "questions in UTF-16": ("gqa", lambda files: files.questions.write_bytes(b"\xff\xfe"), "is not text in UTF-8"),
    "no file of questions": (
        "gqa",
        lambda files: files.questions.unlink(),
        "is not there: name the question file of GQA",
    ),
    "no file of labels": ("gqa", rename_labels("gone.json"), "is not there"),
}


@pytest.mark.parametrize(("benchmark", "spoil", "message"), BAD_INPUT.values(), indirect=["benchmark"], ids=BAD_INPUT)
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
    (lambda rows: [row | {"text": None} for row in rows], "line 1: its 'text' is None, not text"),
    (lambda rows: [row | {"prompt": 5} for row in rows], "line 1: its 'prompt' is 5, not text"),
    (lambda rows: [row | {"text": "\ud800"} for row in rows], "line 1 holds '\\ud800', half of a surrogate pair"),
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


def repeat_entry(files, **fields):
    """TextVQA's first label once more, with other fields."""
    content = json.loads(files.labels.read_text())
    content["data"].append(content["data"][0] | fields)
    files.labels.write_text(json.dumps(content))


LAST = "differ: the last one counts, as in the published script."
EQUAL = "All labels of a question are equal."


@pytest.mark.parametrize(
    ("benchmark", "repeat", "example", "says"),
    [
        ("gqa", repeat_label(), "'201307251'", EQUAL),
        ("gqa", repeat_label(answer="yes"), "'201307251'", LAST),
        ("textvqa", repeat_entry, "'003a8ae2ef43b901 what is the brand of this camera?'", EQUAL),
        ("textvqa", lambda files: repeat_entry(files, answers=["x"] * 10), "'003a8ae2ef43b901 what is the", LAST),
        ("mme", change_mme("Is there a cat 1?\tYes\n" * 2 + "Is there a dog 1?\tNo\n"), "'existence 0001 Is", EQUAL),
        ("mme", change_mme("Is there a cat 1?\tYes\nIs there a cat 1?\tNo\nIs there a dog 1?\tNo\n"), "cat 1?'", LAST),
    ],
    indirect=["benchmark"],
)
def test_repeated_labels_are_said(benchmark, repeat, example, says, caplog):
    before = read_task(benchmark.task, [benchmark.questions], benchmark.labels).labels
    assert not caplog.records
    repeat(benchmark)
    labels = read_task(benchmark.task, [benchmark.questions], benchmark.labels).labels
    (record,) = caplog.records
    assert "1 of " in record.message and "have several labels" in record.message and example in record.message
    assert record.message.endswith(says)
    # The last one counts.
    assert (labels == before) == (says == EQUAL) and labels[1:] == before[1:]
    if says == LAST:
        assert labels[0] in ("No", ["x"] * 10) or labels[0]["answer"] == "yes"


def test_the_warning_names_a_question_whose_labels_differ(caplog):
    pairs = [(("a",), 1), (("b",), 1), (("a",), 1), (("b",), 2), (("b",), 1), (("c",), 1)]
    assert last_labels(pairs, "labels.json") == {("a",): 1, ("b",): 1, ("c",): 1}
    assert caplog.messages == [
        f"labels.json: 2 of 3 questions have several labels, 'b' among them. The labels of 1 of these {LAST}"
    ]


def test_a_name_that_is_no_text(tmp_path, capsys):
    """A file name need not be valid UTF-8, but what is written must be."""
    files = write_benchmark("mme", tmp_path / "mme")
    for ending in (".png", ".txt"):
        image = files.labels / "existence" / f"0001{ending}"
        image.rename(image.with_name(f"a\udcff{ending}"))
    command = ["eval", "--task", "mme", "--questions", str(files.labels), "--model", str(SHIPPED_CHECKPOINT)]
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "'existence/a\\udcff.png' is not valid UTF-8: rename the file" in capsys.readouterr().err


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
