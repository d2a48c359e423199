# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models (https://arxiv.org/abs/2306.13394).

Two questions about each image, one to be answered yes and one no. The score of a category is the percentage of right
answers (accuracy) plus the percentage of images with both answers right (accuracy+), at most 200. Perception is the
sum of ten categories, cognition that of four. MME's rule looks for "yes", then "no", in the first four characters;
lmms-eval's strips the answer and leaves out dots first, and takes "y" and "n" too.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from flashsloth.eval.benchmark import Benchmark, Table, percent
from flashsloth.eval.files import is_file, read_text, shown, write_text
from flashsloth.eval.questions import SHORT_ANSWER, Question, last_labels, read_question_rows


PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
YES_OR_NO = "Please answer yes or no."  # in MME's own files; LLaVA asks for a single word instead
# Folders in which five of the categories keep their files apart.
IMAGES, TEXTS = "images", "questions_answers_YN"
IMAGE_ENDINGS = (".jpg", ".png", ".jpeg")
PREFIX = 4  # characters


class MME(Benchmark):
    name = "mme"
    title = "MME"
    split = "test"
    sizes = (2_374,)
    main_scores = ("perception", "cognition")
    unit = "points"
    rule = "mme"

    def images_folder(self, files, labels):
        return labels or super().images_folder(files, labels)

    def own_labels(self, files):
        return files[0] if len(files) == 1 and files[0].is_dir() else None

    def read_questions(self, files, images):
        questions = []
        for file in files:
            rows = _rows_of_folder(file) if file.is_dir() else read_question_rows(file, self.name)
            questions += [self._question(row, images) for row in rows]
        _check_pairs(questions)
        return questions

    def _question(self, row: dict, images: Path) -> Question:
        category, name = _parts(row["question_id"])
        if category not in (*PERCEPTION, *COGNITION):
            raise ValueError(
                f"The question {shown(row['question_id'])} has the unknown category {shown(category)}: an id is "
                "'CATEGORY/IMAGE'."
            )
        image = images / row["image"]
        if not is_file(image):
            image = next((file for file in [images / category / IMAGES / name] if is_file(file)), image)
        key = self.key(row["question_id"], row["text"])
        return Question(row["question_id"], key, row["text"], image, f"{category}/{name}", category)

    def read_labels(self, source, questions):
        categories = {question.category: None for question in questions}
        pairs = (
            (self.key(f"{category}/{file.name}", asked), label)
            for category in categories
            for file, asked, label in _entries(source, category)
        )
        labels, found = last_labels(pairs, source), []
        for question in questions:
            if question.key not in labels:
                raise ValueError(
                    f"{source} has no label of the question {shown(question.first_line)} about "
                    f"{shown(question.image_name)}: it has those of other questions."
                )
            found.append(labels[question.key])
        return found

    def key(self, question_id, prompt):
        category, name = _parts(question_id)
        return category, name.partition(".")[0], question_in(prompt)

    def judge(self, questions, labels, texts):
        pairs = [f"{question.category}/{question.image_name}" for question in questions]
        rules = {"": parse, "lmms_eval_": parse_like_lmms_eval}
        table = {
            "counted": np.ones(len(texts), dtype=bool),
            "category": np.array([question.category for question in questions]),
        }
        for rule, read in rules.items():
            right = [read(text) == label.lower() for text, label in zip(texts, labels, strict=True)]
            both = Counter(pair for pair, is_right in zip(pairs, right, strict=True) if is_right)
            table[f"{rule}value"] = np.array(right, dtype=float)
            table[f"{rule}both"] = np.array([both[pair] == 2 for pair in pairs], dtype=float)
        return table

    def scores(self, table, weights):
        return _scores(table, weights, "")

    def lmms_eval_scores(self, table, weights):
        return _scores(table, weights, "lmms_eval_")

    def write_submission(self, folder, questions, labels, texts):
        # MME's calculation.py reads a file of a category, with the two questions of an image behind one another
        if labels is None:
            return
        lines = {}
        for question, label, text in sorted(
            zip(questions, labels, texts, strict=True), key=lambda entry: entry[0].image_name
        ):
            cells = (Path(question.image_name).name, f"{question.key[-1]} {YES_OR_NO}", label, text)
            lines.setdefault(question.category, []).append("\t".join(" ".join(cell.split()) for cell in cells))
        for category, entries in lines.items():
            write_text("\n".join(entries) + "\n", folder / "mme" / f"{category}.txt")


def parse(text: str) -> str:
    """MME's own rule: "yes", "no" or "other"."""
    text = text.lower()
    start = text if text in ("yes", "no") else text[:PREFIX]
    return next((word for word in ("yes", "no") if word in start), "other")


def parse_like_lmms_eval(text: str) -> str:
    text = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text, parse(text))


def _parts(question_id: str | int) -> tuple[str, str]:
    """The category, and the name of the image's file."""
    category, _, name = str(question_id).partition("/")
    return category, name.rpartition("/")[2]


def question_in(prompt: str) -> str:
    """The question itself, which MME's and LLaVA's files follow by different sentences."""
    return " ".join(prompt.replace(SHORT_ANSWER, "").replace(YES_OR_NO, "").split())


def _scores(table: Table, weights: np.ndarray, rule: str) -> dict:
    """Each image has two questions, so that the share of images is that of questions."""
    categories = {}
    for category in (*PERCEPTION, *COGNITION):
        counted = weights * (table["category"] == category)
        if (table["category"] == category).any():
            parts = [percent(table[f"{rule}{column}"], counted) for column in ("value", "both")]
            categories[category] = None if None in parts else sum(parts)
    return {
        "perception": _sum(categories, PERCEPTION),
        "cognition": _sum(categories, COGNITION),
        "categories": categories,
    }


def _sum(categories: dict[str, float | None], names: tuple[str, ...]) -> float | None:
    scores = [categories[name] for name in names if name in categories]
    return sum(scores) if scores and None not in scores else None


def _check_pairs(questions: list[Question]) -> None:
    for image, count in Counter(question.image_name for question in questions).items():
        if count != 2:
            raise ValueError(f"MME asks two questions about each image, but {count} about {shown(image)}.")


# MME's own files


def _entries(folder: Path, category: str):
    """The file, question and label of each line of a category."""
    texts = folder / category / TEXTS
    texts = texts if texts.is_dir() else folder / category
    files = sorted(texts.glob("*.txt"))
    if not files:
        raise ValueError(f"{folder} has no labels of the category {category}: there is no {texts}/*.txt.")
    for file in files:
        for line in filter(str.strip, read_text(file).split("\n")):
            question, tab, label = line.strip().partition("\t")
            if not tab or label.strip().lower() not in ("yes", "no"):
                raise ValueError(f"{file}: {shown(line)} is not a question, a tab, and Yes or No.")
            yield file, question, label.strip()


def _rows_of_folder(folder: Path) -> list[dict]:
    """The questions of MME's folders, in the words of LLaVA's question file."""
    categories = [name for name in (*PERCEPTION, *COGNITION) if (folder / name).is_dir()]
    if not categories:
        raise ValueError(f"{folder} holds none of MME's categories ({', '.join(PERCEPTION[:3])}...).")
    rows = []
    for category in categories:
        images = folder / category / IMAGES
        images = images if images.is_dir() else folder / category
        for file, question, _ in _entries(folder, category):
            names = [file.with_suffix(ending).name for ending in IMAGE_ENDINGS]
            name = next((name for name in names if (images / name).is_file()), names[0])
            rows.append(
                {
                    "question_id": f"{category}/{name}",
                    "image": (images / name).relative_to(folder).as_posix(),
                    "text": f"{question_in(question)}\n{SHORT_ANSWER}",
                }
            )
    return rows
