# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
POPE: Evaluating Object Hallucination in Large Vision-Language Models (https://arxiv.org/abs/2305.10355).

"Is there a ... in the image?", in three splits that differ in how the absent objects were drawn. LLaVA's rule reads an
answer up to its first dot, without commas: it is no if "No", "not" or "no" is among its words, and yes otherwise.
lmms-eval counts only the answers "yes" and "no", and pools the splits.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from flashsloth.eval.benchmark import Benchmark, percent, ratio
from flashsloth.eval.files import read_rows, shown, write_rows
from flashsloth.eval.questions import QUESTION_FIELDS, SHORT_ANSWER, Question, read_question_rows


SPLITS = ("random", "popular", "adversarial")
LABEL_FILE = "coco_pope_{}.json"
NEGATIONS = {"No", "not", "no"}


class POPE(Benchmark):
    name = "pope"
    title = "POPE"
    split = "coco"
    sizes = (8_910, 9_000)  # of LLaVA's file, and of POPE's own
    main_scores = ("mean_f1",)

    def read_questions(self, files, images):
        read = [self._read_splits(file, images) if file.is_dir() else self._read(file, images) for file in files]
        return [question for questions in read for question in questions]

    def _read(self, file: Path, images: Path) -> list[Question]:
        questions = []
        for row in read_question_rows(file, self.name):
            if row.get("category") not in SPLITS:
                raise ValueError(
                    f"{file}: question {shown(row['question_id'])} has the category {shown(row.get('category'))}, "
                    f"which is none of {', '.join(SPLITS)}."
                )
            questions.append(self._question(row["question_id"], row["text"], row["image"], row["category"], images))
        return questions

    def _read_splits(self, folder: Path, images: Path) -> list[Question]:
        """POPE's own files, whose ids count from 1 in each split."""
        splits = [split for split in SPLITS if (folder / LABEL_FILE.format(split)).is_file()]
        if not splits:
            raise ValueError(f"{folder} holds none of POPE's files ({LABEL_FILE.format(SPLITS[0])}...).")
        return [
            self._question(
                f"{split}/{row['question_id']}", f"{row['text']}\n{SHORT_ANSWER}", row["image"], split, images
            )
            for split in splits
            for row in read_rows(folder / LABEL_FILE.format(split), QUESTION_FIELDS | {"label": str})
        ]

    def _question(self, name, prompt: str, image: str, split: str, images: Path) -> Question:
        return Question(name, self.key(name, prompt), prompt, images / image, image, split)

    def own_labels(self, files):
        return files[0] if len(files) == 1 and files[0].is_dir() else None

    def read_labels(self, source, questions):
        if not source.is_dir():
            raise ValueError(f"{source} is no folder: name the one that holds {LABEL_FILE.format(SPLITS[0])}.")
        labels, numbers = {}, defaultdict(int)
        for split in {question.category: None for question in questions}:
            file = source / LABEL_FILE.format(split)
            labels[split] = file, read_rows(file, {"label": str}, {"text": str, "image": str})
        found = []
        for question in questions:
            file, rows = labels[question.category]
            number = numbers[question.category]  # ids count from 1 in each split: the order says which is whose
            numbers[question.category] += 1
            if number >= len(rows):
                raise ValueError(f"{file} has {len(rows)} labels, but there are more questions of that split.")
            _check_same(rows[number], question, f"{file}, label {number + 1}")
            found.append(rows[number]["label"])
        return found

    def key(self, question_id, prompt):
        return (str(question_id),)

    def judge(self, questions, labels, texts):
        says_yes = np.array([not is_no(text) for text in texts], dtype=bool)
        is_yes = np.array([label == "yes" for label in labels], dtype=bool)
        exact = [text.lower().strip() for text in texts]
        return {
            "value": (says_yes == is_yes).astype(float),
            "counted": np.ones(len(texts), dtype=bool),
            "category": np.array([question.category for question in questions]),
            "says_yes": says_yes,
            "is_yes": is_yes,
            "says_exactly": np.array([text if text in ("yes", "no") else "other" for text in exact]),
        }

    def scores(self, table, weights):
        present = [split for split in SPLITS if (table["category"] == split).any()]
        splits = {split: _split_scores(table, weights * (table["category"] == split)) for split in present}
        return {**splits, "mean_f1": sum(scores["f1"] for scores in splits.values()) / len(splits)}

    def lmms_eval_scores(self, table, weights):
        exact, is_yes = table["says_exactly"], table["is_yes"]
        true_positives = weights @ ((exact == "yes") & is_yes)
        precision = ratio(true_positives, weights @ (exact == "yes"))
        recall = ratio(true_positives, weights @ (is_yes & (exact != "other")))
        return {
            "accuracy": percent((exact == np.where(is_yes, "yes", "no")).astype(float), weights),
            "precision": 100 * precision,
            "recall": 100 * recall,
            "f1": 100 * ratio(2 * precision * recall, precision + recall),
            "yes_ratio": ratio(weights @ is_yes, weights.sum()),  # of the labels
        }

    def write_submission(self, folder, questions, labels, texts):
        # POPE's evaluate.py reads a file of a split, in the order of its labels
        rows = defaultdict(list)
        for question, text in zip(questions, texts, strict=True):
            rows[question.category].append({"question": question.first_line, "answer": text})
        for split, answers in rows.items():
            write_rows(answers, folder / f"coco_pope_{split}_answers.json")


def is_no(text: str) -> bool:
    """Whether an answer is no; all others are yes, also the empty one."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return not NEGATIONS.isdisjoint(words)


def _split_scores(table: dict[str, np.ndarray], weights: np.ndarray) -> dict:
    says_yes, is_yes = table["says_yes"], table["is_yes"]
    counts = {
        "TP": weights @ (says_yes & is_yes),
        "FP": weights @ (says_yes & ~is_yes),
        "TN": weights @ (~says_yes & ~is_yes),
        "FN": weights @ (~says_yes & is_yes),
    }
    precision = ratio(counts["TP"], counts["TP"] + counts["FP"])
    recall = ratio(counts["TP"], counts["TP"] + counts["FN"])
    return {
        "accuracy": 100 * ratio(counts["TP"] + counts["TN"], weights.sum()),
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * ratio(2 * precision * recall, precision + recall),
        "yes_ratio": ratio(counts["TP"] + counts["FP"], weights.sum()),
        **{name: int(count) for name, count in counts.items()},
    }


def _spelled(text: str) -> str:
    """Text without the misspelling that questions of the published file have, and labels perhaps not."""
    return text.strip().replace("imange", "image")


def _check_same(row: dict, question: Question, where: str) -> None:
    """Raises a `ValueError` unless a label belongs to a question."""
    for name, asked in (("text", question.first_line), ("image", Path(question.image_name).name)):
        if name in row and _spelled(row[name]) != _spelled(asked):
            raise ValueError(
                f"{where} is of {shown(row[name])}, but question {shown(question.id)} of that split is about "
                f"{shown(asked)}: these are labels of other questions."
            )
    if row["label"] not in ("yes", "no"):
        raise ValueError(f"{where} is {shown(row['label'])}, neither yes nor no.")
