# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
GQA: Real-World Visual Reasoning and Compositional Question Answering (https://arxiv.org/abs/1902.09506).

An answer is right if it is the label, letter by letter, once its final dots are gone and it is in lower case. A
question whose structure is "query" is open; "verify", "logical", "choose" and "compare" are binary. lmms-eval leaves
out all punctuation, on both sides.
"""

import json
import string
from pathlib import Path

import numpy as np

from flashsloth.eval.benchmark import Benchmark, percent
from flashsloth.eval.files import ID, Pairs, check_fields, read_json_file, shown, write_text
from flashsloth.eval.questions import SHORT_ANSWER, Question, last_labels, read_question_rows


OPEN = "query"
# Of an entry of GQA's own file, as a question and as a label.
ASKED = {"imageId": ID, "question": str}
LABEL = {"answer": str, "types": dict}
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class GQA(Benchmark):
    name = "gqa"
    title = "GQA"
    split = "testdev_balanced"
    sizes = (12_578,)

    def read_questions(self, files, images):
        return [question for file in files for question in self._read(file, images)]

    def _read(self, file: Path, images: Path) -> list[Question]:
        if file.suffix == ".json":  # GQA's own file, which holds the labels too
            rows = [
                {
                    "question_id": name,
                    "image": f"{entry['imageId']}.jpg",
                    "text": f"{entry['question']}\n{SHORT_ANSWER}",
                }
                for name, entry in dict(_read_entries(file, ASKED)).items()
            ]
        else:
            rows = read_question_rows(file, self.name)
        return [self.question_of(row, images) for row in rows]

    def own_labels(self, files):
        return files[0] if len(files) == 1 and files[0].suffix == ".json" else None

    def read_labels(self, source, questions):
        entries = last_labels(_read_entries(source, LABEL), source)
        labels = []
        for question in questions:
            entry = entries.get(str(question.id))
            if entry is None:
                raise ValueError(
                    f"{source} has no label of question {shown(question.id)}: it has those of other questions."
                )
            if "question" in entry and entry["question"].strip().lower() != question.first_line.lower():
                raise ValueError(
                    f"{source} has the label of another question with the id {shown(question.id)}: "
                    f"{shown(entry['question'])} instead of {shown(question.first_line)}."
                )
            check_fields(entry["types"], {"structural": str}, f"{source}, 'types' of question {shown(question.id)}")
            labels.append(
                {
                    "answer": entry["answer"],
                    "structure": entry["types"]["structural"],
                    "balanced": entry.get("isBalanced", True),
                }
            )
        return labels

    def key(self, question_id, prompt):
        return (str(question_id),)

    def judge(self, questions, labels, texts):
        answers = [label["answer"] for label in labels]
        return {
            "value": _equal([prediction(text) for text in texts], answers),
            "counted": np.array([label["balanced"] for label in labels], dtype=bool),
            "category": np.array([label["structure"] for label in labels]),
            "lmms_eval": _equal(map(_without_case, texts), map(_without_case, answers)),
        }

    def scores(self, table, weights):
        weights, is_open = weights * table["counted"], table["category"] == OPEN
        return {
            "accuracy": percent(table["value"], weights),
            "binary": percent(table["value"], weights * ~is_open),
            "open": percent(table["value"], weights * is_open),
        }

    def lmms_eval_scores(self, table, weights):
        return {"accuracy": percent(table["lmms_eval"], weights)}

    def write_submission(self, folder, questions, labels, texts):
        # `python eval.py --tier testdev_balanced` reads it
        answers = [
            {"questionId": str(question.id), "prediction": prediction(text)}
            for question, text in zip(questions, texts, strict=True)
        ]
        write_text(json.dumps(answers, ensure_ascii=False) + "\n", folder / "testdev_balanced_predictions.json")


def prediction(text: str) -> str:
    """What is compared with the label: all final dots go, and nothing else."""
    return text.rstrip(".").lower()


def _without_case(text: str) -> str:
    """What lmms-eval compares."""
    return text.lower().translate(WITHOUT_PUNCTUATION)


def _equal(predictions, answers) -> np.ndarray:
    pairs = zip(predictions, answers, strict=True)
    return np.array([given == expected for given, expected in pairs], dtype=float)


def _read_entries(file: Path, required: dict) -> list[tuple[str, dict]]:
    """The entries of GQA's own file with their ids, of which one may be there twice."""
    content = read_json_file(file, may_repeat=True)
    entries = content if isinstance(content, Pairs) else list(content.items()) if isinstance(content, dict) else []
    if not entries:
        raise ValueError(f"{file} is not GQA's file of questions: it must hold an object with an entry for each.")
    for name, entry in entries:
        check_fields(entry, required, f"{file}, question {shown(name)}", {"question": str, "isBalanced": bool})
    return entries
