# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
MMBench: Is Your Multi-modal Model an All-around Player? (https://arxiv.org/abs/2307.06281)

Multiple choice. Each question is there as often as it has options, which are rotated; in the circular score it counts
as right only if all its rows do. The vanilla score is that of the rows that are not rotated. The choice is read from
the answer by the rules of lmms-eval, without a judge.

Where the text of an option is "None" or "NA", the script of LLaVA asks without that option and those behind it, as
pandas reads such a cell as empty (https://github.com/haotian-liu/LLaVA, `llava/eval/model_vqa_mmbench.py`). Here it is
an option like all others: none is a cell that is empty, or holds the "nan" that pandas writes for an empty one. A row
whose label is an option that is not there counts nevertheless: lmms-eval compares the letters (`eval_sub_data` in its
`tasks/mmbench/mmbench_evals.py`), so that it is wrong unless the answer names the letter that was not asked for.

The last line of a prompt is in Chinese if most questions of the table are, as it is by `--lang cn` of that script.
"""

import base64
import binascii
import csv
import hashlib
import logging
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from flashsloth.eval.benchmark import Benchmark, percent
from flashsloth.eval.files import check_is_file
from flashsloth.eval.questions import Question


logger = logging.getLogger(__name__)

SUFFIX = "Answer with the option's letter from the given choices directly."
CHINESE_SUFFIX = "请直接回答选项字母。"
CHINESE_CHARACTER = re.compile("[\u4e00-\u9fff]")
LETTERS = "ABCD"
COLUMNS = ("index", "question", "hint", *LETTERS, "category", "image", "l2-category", "split")
SUBMITTED = ("index", "question", *LETTERS, "prediction", "answer", "split")
TEST = "test"  # the split whose labels only the server has
ROTATED = 1_000_000  # rows of a higher index are rotated copies of index % 1,000,000
LONGEST_INDEX = 64  # characters; an image in base64 is longer
NO_OPTION = {"", "nan"}
# What the published script reads as no value: words that it names, and those of pandas' parser.
NO_VALUE = {"", "nan", "none"}
NO_VALUE_OF_PANDAS = set(
    "#N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a nan null".split()
)

# The rules read letters up to E, "none of these", although no question has more than four options.
READ = "ABCDE"
# What may stand around a letter, in the order in which it is looked for.
FORMS = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")
MAX_WORDS_WITH_A = 3  # in a longer answer "A" may be the article


class MMBench(Benchmark):
    name = "mmbench"
    title = "MMB"
    split = "dev"
    sizes = (4_377, 4_329)  # of 2023-07-12 and 2023-10-03
    main_scores = ("circular_accuracy",)
    max_new_tokens = 1024
    takes_labels = False

    def read_questions(self, files, images):
        tables = [_read_table(file) for file in files]
        rows = [row for table in tables for row in table]
        by_index = {row["index"]: row for row in rows}
        _check_splits(rows)
        _warn_of_missing_rows(rows)
        _warn_of_missing_options(rows)
        suffix, *others = {_suffix(table) for table in tables}
        if others:
            raise ValueError("Some of the tables are in Chinese and others are not: name those of one language.")
        return [self._question(row, by_index, suffix) for row in rows]

    def _question(self, row: dict, by_index: dict[int, dict], suffix: str) -> Question:
        options = options_of(row)
        image = _image(row, by_index)
        hint = "" if _is_no_value(row["hint"]) else f"{row['hint']}\n"
        lines = [f"{hint}{row['question']}", *(f"{letter}. {text}" for letter, text in options.items()), suffix]
        return Question(
            id=row["index"],
            key=self.key(row["index"], ""),
            prompt="\n".join(lines),
            image=image,
            image_name=hashlib.sha256(image).hexdigest(),
            category=row["l2-category"],
            fields={"round_id": 0, "options": list(options.values()), "option_char": list(options)},
            row={name: value for name, value in row.items() if name != "image"},
        )

    def variant(self, questions):
        return ChineseMMBench() if questions[0].prompt.endswith(CHINESE_SUFFIX) else self

    def own_labels(self, files):
        return files[0]

    def read_labels(self, source, questions):
        return [question.row["answer"] for question in questions if question.row["split"] != TEST]

    def key(self, question_id, prompt):
        return (str(question_id),)

    def judge(self, questions, labels, texts):
        answers = zip(questions, labels, texts, strict=True)
        right = [choice(text, options_of(question.row)) == label for question, label, text in answers]
        right = np.array(right, dtype=float)
        groups = defaultdict(list)
        for number, question in enumerate(questions):
            groups[question.id % ROTATED].append(number)
        all_right = {index: right[numbers].min() for index, numbers in groups.items()}
        return {
            "value": np.array([all_right[question.id % ROTATED] for question in questions]),
            "counted": np.array([question.id < ROTATED for question in questions], dtype=bool),
            "category": np.array([question.category for question in questions]),
            "vanilla": right,
        }

    def scores(self, table, weights):
        weights = weights * table["counted"]
        return {
            "circular_accuracy": percent(table["value"], weights),
            "vanilla_accuracy": percent(table["vanilla"], weights),
            "l2_category": {
                str(category): percent(table["value"], weights * (table["category"] == category))
                for category in np.unique(table["category"])
            },
        }

    def needed_package(self):
        return "openpyxl"

    def write_submission(self, folder, questions, labels, texts):
        # https://mmbench.opencompass.org.cn takes it
        from openpyxl import Workbook
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

        columns = [name for name in SUBMITTED if name == "prediction" or all(name in q.row for q in questions)]
        book = Workbook()
        book.active.append(columns)
        for question, text in zip(questions, texts, strict=True):
            row = question.row | dict.fromkeys(LETTERS) | options_of(question.row) | {"prediction": text}
            cells = (row[name] for name in columns)
            book.active.append(
                [ILLEGAL_CHARACTERS_RE.sub("", cell) if isinstance(cell, str) else cell for cell in cells]
            )
        for row in book.active.iter_rows(min_row=2):
            for cell in row:
                if isinstance(cell.value, str):
                    cell.data_type = "s"  # also what begins with "=", as a formula does
        folder.mkdir(parents=True, exist_ok=True)
        book.save(folder / "mmbench.xlsx")


class ChineseMMBench(MMBench):
    title = "MMB-CN"


def choice(text: str, options: dict[str, str]) -> str | None:
    """
    The letter that an answer names, or `None`.

    Args:
        text (`str`): The answer.
        options (`dict[str, str]`): The texts of the options by their letters.
    """
    words = text.split()
    for form in ("{}", *FORMS):
        named = [letter for letter in READ if form.format(letter) in words]
        may_be_article = form == "{}" and named == ["A"] and len(words) > MAX_WORDS_WITH_A
        if len(named) == 1 and not may_be_article:
            return named[0]
    named = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return named[0] if len(named) == 1 else None


def options_of(row: dict) -> dict[str, str]:
    """The texts of the options by their letters, up to the first that is empty."""
    options = {}
    for letter in LETTERS:
        if row[letter].strip().lower() in NO_OPTION:
            break
        options[letter] = row[letter]
    return options


def _is_no_value(value: str) -> bool:
    return value.strip().lower() in NO_VALUE or value in NO_VALUE_OF_PANDAS


def _suffix(rows: list[dict]) -> str:
    """What a table's prompts end with, in the language of most of its questions."""
    chinese = sum(CHINESE_CHARACTER.search(row["question"]) is not None for row in rows)
    return CHINESE_SUFFIX if 2 * chinese > len(rows) else SUFFIX


def _read_table(file: Path) -> list[dict]:
    """The rows of the published table, with whole numbers as `index`."""
    check_is_file(file)
    csv.field_size_limit(sys.maxsize)  # an image is longer than a field may be
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t")
            columns, table = reader.fieldnames or [], list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a table of columns with tabs between them: {error}") from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        found = ", ".join(columns) if len(columns) > 1 else "no columns with tabs between them"
        raise ValueError(f"{file} is not MMBench's table: it has no column {missing[0]!r}, but {found[:200]}.")
    for number, row in enumerate(table, 1):
        _check_row(row, f"{file}, row {number}")
    if not table:
        raise ValueError(f"{file} holds no questions.")
    rows = [{**row, "index": int(row["index"])} for row in table]
    for row in rows:
        _check_answer(row, file)
    return rows


def _check_row(row: dict, where: str) -> None:
    if None in row or None in row.values():
        raise ValueError(f"{where} has another number of columns than the first line.")
    if not row["index"].isdecimal() or len(row["index"]) > LONGEST_INDEX:
        raise ValueError(f"{where}: the index {row['index'][:LONGEST_INDEX]!r} is not a whole number.")
    fillers = {letter: text for letter, text in options_of(row).items() if _is_no_value(text)}
    if len(fillers) > len(set(fillers.values())):
        letters = " and ".join(fillers)
        raise ValueError(
            f"{where}: the options {letters} are {' and '.join(map(repr, fillers.values()))}: leave the cells of "
            "options that a question does not have empty."
        )


def _check_answer(row: dict, file: Path) -> None:
    """Raises a `ValueError` unless a row has a label, or is of the split without labels."""
    if row["split"] == TEST:
        return
    if "answer" not in row:
        raise ValueError(f"{file} has no column 'answer', which only the split {TEST!r} lacks.")
    if row["answer"] not in list(LETTERS):
        raise ValueError(
            f"{file}: the answer {row['answer'][:LONGEST_INDEX]!r} of question {row['index']} is none of "
            f"{', '.join(LETTERS)}."
        )


def _check_splits(rows: list[dict]) -> None:
    """Raises a `ValueError` if some questions have labels and others cannot have any."""
    counts = Counter(row["split"] for row in rows)
    if TEST in counts and len(counts) > 1:
        found = ", ".join(f"{count} of {split!r}" for split, count in counts.items())
        raise ValueError(
            f"The questions are of several splits, {found}: those of {TEST!r} have no labels. Name the table of one "
            "split."
        )


def _warn_of_missing_rows(rows: list[dict]) -> None:
    counts = Counter(row["index"] % ROTATED for row in rows)
    options = {row["index"] % ROTATED: len(options_of(row)) for row in rows}
    incomplete = [index for index, count in counts.items() if count < options[index]]
    if incomplete:
        logger.warning(
            "%d of %d questions have fewer rows than options, %d among them: as in lmms-eval, such a question is "
            "right if the rows that are there are.",
            len(incomplete),
            len(counts),
            incomplete[0],
        )


def _warn_of_missing_options(rows: list[dict]) -> None:
    labeled = [row for row in rows if row["split"] != TEST]
    missing = [row["index"] for row in labeled if row["answer"] not in options_of(row)]
    if missing:
        logger.warning(
            "The answers to %d of %d rows, %d among them, are options whose cells are empty: as in lmms-eval, such a "
            "row is wrong unless its letter is named.",
            len(missing),
            len(rows),
            missing[0],
        )


def _image(row: dict, by_index: dict[int, dict]) -> bytes:
    """The bytes of a row's image, which may be that of another row."""
    content, seen = row["image"], set()
    while len(content) <= LONGEST_INDEX and content.isdecimal() and int(content) in by_index.keys() - seen:
        seen.add(int(content))
        content = by_index[int(content)]["image"]
    try:
        image = base64.b64decode("".join(content.split()), validate=True) if len(content) > LONGEST_INDEX else b""
    except binascii.Error:
        image = b""
    if not image:
        raise ValueError(
            f"The image of MMBench's question {row['index']} is gone: {content[:LONGEST_INDEX]!r} is neither base64 "
            "nor the index of a row with an image."
        )
    return image
