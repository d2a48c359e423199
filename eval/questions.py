# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Questions, labels and answers of a benchmark. They are checked before anything is asked: each error is one line that
names the file and what is wrong with it. Nothing here needs torch.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flashsloth.eval.files import ID, is_file, read_rows, shown


logger = logging.getLogger(__name__)

SHORT_ANSWER = "Answer the question using a single word or phrase."
ANSWERS = "answers.jsonl"  # of a run
OCR_MARK = "Reference OCR token:"
QUESTION_FIELDS = {"question_id": ID, "image": str, "text": str}  # of a line of a published file
Key = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """
    One question about one image.

    Args:
        id (`str` or `int`): Its id in the file; some benchmarks give two questions about an image the same.
        key (`tuple[str, ...]`): What identifies it among all questions of the benchmark.
        prompt (`str`): What is asked, without the image's placeholder.
        image (`Path` or `bytes`): The image's file, or what that file holds.
        image_name (`str`): The same for all questions about an image.
        category (`str`): The part of the benchmark that it belongs to.
        fields (`dict`, *optional*): Further fields of its line in the file of answers.
        row (`dict`, *optional*): Its row in the published table, where a benchmark hands that in again.
    """

    id: str | int
    key: Key
    prompt: str
    image: Path | bytes = field(repr=False)
    image_name: str
    category: str
    fields: dict = field(default_factory=dict)
    row: dict = field(default_factory=dict, repr=False)

    @property
    def first_line(self) -> str:
        """The question itself: what follows are OCR tokens, options and how to answer."""
        return first_line(self.prompt)


def first_line(prompt: str) -> str:
    return prompt.partition("\n")[0].strip()


# Questions


def read_question_rows(file: Path, benchmark: str) -> list[dict]:
    """
    The lines of a published question file: `question_id`, `image`, `text`, and for some benchmarks `category`.

    Args:
        file (`Path`): The file.
        benchmark (`str`): The name of the benchmark that it should belong to.

    Raises:
        ValueError: If it is malformed, empty, or the question file of another benchmark.
    """
    rows = read_rows(file, QUESTION_FIELDS)
    if not rows:
        raise ValueError(f"{file} holds no questions.")
    # Every line of TextVQA's file names OCR tokens, though perhaps none.
    found = Counter(map(_benchmark_of, rows)).most_common(1)[0][0]
    if found != benchmark:
        hint = "" if benchmark != "textvqa" else ", and that each prompt has its line 'Reference OCR token: ...'"
        raise ValueError(f"{file} looks like the questions of {found}, not of {benchmark}: check --task{hint}.")
    return rows


def _benchmark_of(row: dict) -> str:
    """The benchmark whose published question file has such lines."""
    if row.get("category") in ("random", "popular", "adversarial"):
        return "pope"
    if OCR_MARK in row["text"]:
        return "textvqa"
    return "mme" if "/" in str(row["question_id"]) else "gqa"


def check_questions(questions: list[Question]) -> None:
    """Raises a `ValueError` if two questions have the same key, or if a name cannot be written to a file."""
    for key, count in Counter(question.key for question in questions).items():
        if count > 1:
            raise ValueError(f"The question {name_of(key)} is there {count} times: take out its duplicates.")
    for question in questions:
        try:
            question.image_name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"The name {question.image_name!r} is not valid UTF-8: rename the file.") from error


def name_of(key: Key) -> str:
    """A question as messages name it."""
    return shown(" ".join(key))


def check_images(questions: list[Question]) -> None:
    """Raises a `ValueError` if an image is not there."""
    files = dict.fromkeys(q.image for q in questions if isinstance(q.image, Path))
    missing = [file for file in files if not is_file(file)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(files)} images are not there, {shown(str(missing[0]))} among them: "
            f"{'name their folder with --images' if len(missing) == len(files) else 'put them into that folder'}."
        )


# Labels


def last_labels(pairs: Iterable[tuple], source: Path) -> dict:
    """
    Labels by what identifies their questions. Of several labels of a question the last counts, as in the published
    scripts. A warning says so, and whether they differ.

    Args:
        pairs (`Iterable[tuple]`): A key or an id, and its label, in the order of the file.
        source (`Path`): The file or folder.
    """
    labels, differ = {}, {}
    for key, label in pairs:
        if key in labels:
            differ[key] = differ.get(key, False) or labels[key] != label
        labels[key] = label
    if differ:
        contradictory = [key for key in differ if differ[key]]
        logger.warning(
            "%s: %d of %d questions have several labels, %s among them. %s",
            source,
            len(differ),
            len(labels),
            _name_of_label(contradictory[0] if contradictory else next(iter(differ))),
            f"The labels of {len(contradictory)} of these differ: the last one counts, as in the published script."
            if contradictory
            else "All labels of a question are equal.",
        )
    return labels


def _name_of_label(key: Key | str) -> str:
    return shown(key) if isinstance(key, str) else name_of(key)


# Answers


def read_answers(file: Path, questions: list[Question], key_of: Callable[[str | int, str], Key]) -> list[str]:
    """
    The texts of a file of answers, in the order of the questions.

    Args:
        file (`Path`): JSON lines with `question_id`, `text` and, where ids repeat, `prompt`, in any order.
        questions (`list[Question]`): The questions.
        key_of (`Callable`): Makes the key of a question of its id and prompt.

    Raises:
        ValueError: If answers are missing, twice there, or belong to other questions.
    """
    by_key = {question.key: question for question in questions}
    texts = {}
    for row in read_rows(file, {"question_id": ID, "text": str}, {"prompt": str}):
        name, prompt = row["question_id"], row.get("prompt", "")
        key = key_of(name, prompt)
        question = by_key.get(key)
        if question is None:
            raise ValueError(f"{file} answers {name_of(key)}, which is none of the questions.")
        if key in texts:
            raise ValueError(f"{file} answers {name_of(key)} twice.")
        # a key of several parts holds the question
        if len(key) == 1 and prompt and first_line(prompt).lower() != question.first_line.lower():
            raise ValueError(
                f"{file} answers another question with the id {shown(name)}: {shown(first_line(prompt))} instead of "
                f"{shown(question.first_line)}."
            )
        texts[key] = row["text"]
    missing = [question for question in questions if question.key not in texts]
    if missing:
        raise ValueError(
            f"{file} lacks the answers to {len(missing)} of {len(questions)} questions, {name_of(missing[0].key)} "
            "among them."
        )
    return [texts[question.key] for question in questions]


# Fingerprints: the same wherever the files are, and in whatever order they list their questions


def fingerprint_of_questions(questions: list[Question], labels: list | None) -> dict[str, str | None]:
    """Hashes of what is asked, and of what is right."""
    order = sorted(range(len(questions)), key=lambda index: questions[index].key)
    asked = [[questions[i].key, questions[i].prompt, questions[i].image_name] for i in order]
    return {"questions": _digest(asked), "labels": labels and _digest([labels[i] for i in order])}


def image_digests(questions: list[Question]) -> dict[str, str]:
    """A hash of the bytes of each image, by its name."""
    images = {question.image_name: question.image for question in questions}
    return {name: _file_digest(images[name]) for name in sorted(images)}


def fingerprint_of_images(digests: dict[str, str]) -> str:
    """One hash of [`image_digests`]."""
    return _digest(digests)


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _file_digest(image: Path | bytes) -> str:
    return hashlib.sha256(image if isinstance(image, bytes) else image.read_bytes()).hexdigest()
