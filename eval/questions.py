# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Questions and answers of a benchmark, and the JSON lines that hold them. A file is checked before anything is asked:
each error is one line that names the file and what is wrong with it. Nothing here needs torch.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


SHORT_ANSWER = "Answer the question using a single word or phrase."
ANSWERS = "answers.jsonl"  # of a run
OCR_MARK = "Reference OCR token:"
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


# Reading


def read_rows(file: Path, required: Sequence[str] = ()) -> list[dict]:
    """
    The objects of a file of JSON lines.

    Args:
        file (`Path`): The file; empty lines are skipped.
        required (`Sequence[str]`, *optional*): The fields that each line must have.

    Raises:
        ValueError: If there is no such file, or if a line is no JSON object or lacks a field.
    """
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number} is not JSON: {error}") from error
        check_fields(row, required, f"{file}, line {number}")
        rows.append(row)
    return rows


def read_json_file(file: Path):
    """The content of a JSON file, or a `ValueError` that names the file."""
    text = read_text(file)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file} is not a JSON file: {error}") from error


def check_is_file(file: Path) -> None:
    """Raises a `ValueError` unless there is such a file."""
    if not file.is_file():
        raise ValueError(f"{file} is {'a folder' if file.is_dir() else 'not there'}: name a file.")


def read_text(file: Path) -> str:
    """The text of a file, or a `ValueError` that names the file."""
    check_is_file(file)
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}") from error


def check_fields(row, required: Sequence[str], where: str) -> None:
    """Raises a `ValueError` unless `row` is an object with all the fields."""
    if not isinstance(row, dict):
        raise ValueError(f"{where} holds a {type(row).__name__}, not a JSON object.")
    missing = [name for name in required if name not in row]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}; it has {', '.join(map(repr, row)) or 'no fields'}.")


def read_question_rows(file: Path, benchmark: str) -> list[dict]:
    """
    The lines of a published question file: `question_id`, `image`, `text`, and for some benchmarks `category`.

    Args:
        file (`Path`): The file.
        benchmark (`str`): The name of the benchmark that it should belong to.

    Raises:
        ValueError: If it is malformed, empty, or the question file of another benchmark.
    """
    rows = read_rows(file, ("question_id", "image", "text"))
    if not rows:
        raise ValueError(f"{file} holds no questions.")
    for row in rows:
        if not isinstance(row["text"], str) or not isinstance(row["image"], str):
            raise ValueError(f"{file}: 'image' and 'text' of question {row['question_id']!r} must be text.")
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
    """Raises a `ValueError` if two questions have the same key."""
    for key, count in Counter(question.key for question in questions).items():
        if count > 1:
            raise ValueError(f"The question {' '.join(key)!r} is there {count} times: take out its duplicates.")


def check_images(questions: list[Question]) -> None:
    """Raises a `ValueError` if an image is not there."""
    files = dict.fromkeys(q.image for q in questions if isinstance(q.image, Path))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(files)} images are not there, {missing[0]} among them: name their folder with "
            "--images."
        )


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
    for row in read_rows(file, ("question_id", "text")):
        name, prompt = row["question_id"], row.get("prompt", "")
        if not isinstance(row["text"], str) or not isinstance(prompt, str):
            raise ValueError(f"{file}: 'text' and 'prompt' of the answer to {name!r} must be text.")
        key = key_of(name, prompt)
        question = by_key.get(key)
        if question is None:
            raise ValueError(f"{file} answers {' '.join(key)!r}, which is none of the questions.")
        if key in texts:
            raise ValueError(f"{file} answers {' '.join(key)!r} twice.")
        # a key of several parts holds the question
        if len(key) == 1 and prompt and first_line(prompt).lower() != question.first_line.lower():
            raise ValueError(
                f"{file} answers another question with the id {name!r}: {first_line(prompt)!r} instead of "
                f"{question.first_line!r}."
            )
        texts[key] = row["text"]
    missing = [question for question in questions if question.key not in texts]
    if missing:
        raise ValueError(
            f"{file} lacks the answers to {len(missing)} of {len(questions)} questions, {' '.join(missing[0].key)!r} "
            "among them."
        )
    return [texts[question.key] for question in questions]


def write_rows(rows: Iterable[dict], file: Path) -> None:
    """Writes JSON lines; the file is there whole or not at all."""
    write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), file)


def write_text(text: str, file: Path) -> None:
    """Writes a text file, which is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


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
