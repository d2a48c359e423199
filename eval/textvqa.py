# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
TextVQA: Towards VQA Models That Can Read (https://arxiv.org/abs/1904.08920), version 0.5.1, validation.

Ten people answered each question. An answer's score is the mean over the ten of min(1, matches among the other nine
/ 3), all of it after the normalization of VQA: no punctuation and no articles, digits for number words, apostrophes in
contractions.
"""

import re
from collections import Counter

import numpy as np

from flashsloth.eval.benchmark import Benchmark, percent
from flashsloth.eval.files import ID, check_fields, read_json_file, shown
from flashsloth.eval.questions import first_line, last_labels, read_question_rows


ANSWERS = 10  # of people, to a question
ENOUGH = 3  # matches for the full score
LABEL = {"question": str, "image_id": ID, "answers": list}

# The published lists (https://github.com/facebookresearch/mmf, EvalAIAnswerProcessor).
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
# The published code passes the flag `re.UNICODE` as the number of dots that are taken out: 32.
DOT, MAX_DOTS = re.compile(r"\.(?!\d)"), 32
COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
# The words of the published table. It maps each of them without one of its apostrophes to the word, and has one entry
# the other way around.
WITH_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
    we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've
    you'll you're you've
"""
CONTRACTIONS = {
    word[: match.start()] + word[match.end() :]: word
    for word in WITH_APOSTROPHES.split()
    for match in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}


class TextVQA(Benchmark):
    name = "textvqa"
    title = "TextVQA"
    split = "val"
    sizes = (5_000,)

    def read_questions(self, files, images):
        return [self.question_of(row, images) for file in files for row in read_question_rows(file, self.name)]

    def read_labels(self, source, questions):
        content = read_json_file(source)
        entries = content.get("data") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{source} is not TextVQA's file of labels: it must hold a list under 'data'.")
        for number, entry in enumerate(entries):
            where = f"{source}, entry {number}"
            check_fields(entry, LABEL, where)
            if not all(isinstance(answer, str) for answer in entry["answers"]):
                raise ValueError(f"{where}: its 'answers' are {shown(entry['answers'])}, not {ANSWERS} texts.")
        pairs = ((self.key(entry["image_id"], entry["question"]), entry["answers"]) for entry in entries)
        answers = last_labels(pairs, source)
        for question in questions:
            found = answers.get(question.key)
            if found is None:
                raise ValueError(
                    f"{source} has no label of the question {shown(question.first_line)} about image "
                    f"{shown(question.id)}: it has those of other questions."
                )
            if len(found) != ANSWERS:
                raise ValueError(
                    f"{source} has {len(found)} instead of {ANSWERS} answers to {shown(question.first_line)}."
                )
        return [answers[question.key] for question in questions]

    def key(self, question_id, prompt):
        # The id is the image's, which two questions may share.
        return str(question_id), first_line(prompt).lower()

    def judge(self, questions, labels, texts):
        return {
            "value": np.array([score(text, answers) for text, answers in zip(texts, labels, strict=True)]),
            "counted": np.ones(len(texts), dtype=bool),
            "category": np.full(len(texts), "all"),
        }

    def scores(self, table, weights):
        return {"accuracy": percent(table["value"], weights)}

    def write_submission(self, folder, questions, labels, texts):
        """Nothing: the published script reads the file of answers as it is."""


def score(text: str, answers: list[str]) -> float:
    """From 0 to 1."""
    given, counts = normalize(text), Counter(map(normalize, answers))
    matches = counts[given]
    # `matches` of the ten answers are the given one: from the view of each of them one fewer is left.
    as_one_of_them = matches * min(1, (matches - 1) / ENOUGH) if matches else 0
    return (as_one_of_them + (len(answers) - matches) * min(1, matches / ENOUGH)) / len(answers)


def normalize(text: str) -> str:
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = (NUMBERS.get(word, word) for word in text.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    result, has_comma = text, COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if touches_space or has_comma else " ")
    return DOT.sub("", result, count=MAX_DOTS)
