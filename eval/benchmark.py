# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What a benchmark is: where its questions and labels are, what it asks, and how answers become scores."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from flashsloth.eval.questions import Key, Question


Table = dict[str, np.ndarray]  # a row for each question; see Benchmark.judge


class Benchmark(ABC):
    """
    One benchmark.

    Attributes:
        name (`str`): Its name on the command line.
        title (`str`): Its name in the published table of scores.
        main_scores (`tuple[str, ...]`): The scores that stand for it in that table.
        unit (`str`): Of these scores.
        rule (`str`): Whose rule gives them.
        max_new_tokens (`int`): The longest answer, as published, in tokens.
        takes_labels (`bool`): Whether labels may be in a file of their own.
        sizes (`tuple[int, ...]`): How many questions its published files have.
    """

    name: str
    title: str
    split: str
    main_scores: tuple[str, ...] = ("accuracy",)
    unit = "percent"
    rule = "llava"
    max_new_tokens = 128
    takes_labels = True
    sizes: tuple[int, ...]

    def is_published(self, num_questions: int) -> bool:
        """Whether there are as many questions as in a published file. Scores of others are not the benchmark's."""
        return num_questions in self.sizes

    @abstractmethod
    def read_questions(self, files: list[Path], images: Path) -> list[Question]:
        """
        Reads the published question files.

        Args:
            files (`list[Path]`): The files.
            images (`Path`): The folder of the images.

        Raises:
            ValueError: If a file is malformed, or belongs to another benchmark.
        """

    @abstractmethod
    def read_labels(self, source: Path, questions: list[Question]) -> list:
        """
        Reads the published labels: one for each question, in their order, as JSON values.

        Raises:
            ValueError: If they are malformed, or labels of other questions.
        """

    def variant(self, questions: list[Question]) -> "Benchmark":
        """The benchmark that the questions belong to, where scores of one task stand under several titles."""
        return self

    def images_folder(self, files: list[Path], labels: Path | None) -> Path:
        """Where the images are, if the caller does not say: beside the questions."""
        return files[0] if files[0].is_dir() else files[0].parent

    def own_labels(self, files: list[Path]) -> Path | None:
        """The published labels, where the question files hold them."""
        return None

    @abstractmethod
    def key(self, question_id: str | int, prompt: str) -> Key:
        """What identifies a question among all of the benchmark."""

    def question_of(self, row: dict, images: Path) -> Question:
        """The question of a row with `question_id`, `image` and `text`, as most published files have them."""
        return Question(
            id=row["question_id"],
            key=self.key(row["question_id"], row["text"]),
            prompt=row["text"],
            image=images / row["image"],
            image_name=row["image"],
            category="",
        )

    @abstractmethod
    def judge(self, questions: list[Question], labels: list, texts: list[str]) -> Table:
        """
        Compares the answers with the labels.

        Returns:
            `dict[str, np.ndarray]`: Columns with an entry for each question, among them `value` (from 0, wrong, to 1)
            and `counted` (whether the score has the question in it).
        """

    @abstractmethod
    def scores(self, table: Table, weights: np.ndarray) -> dict:
        """
        The published scores of judged answers.

        Args:
            table (`dict[str, np.ndarray]`): What `judge` returned.
            weights (`np.ndarray` of shape `(questions,)`): How often each question is in the sample: 1, or in a
                bootstrap sample any whole number.

        Returns:
            `dict`: Scores by name, perhaps nested; `None` for a score of no questions.
        """

    def lmms_eval_scores(self, table: Table, weights: np.ndarray) -> dict:
        """The scores by the rule of lmms-eval, where that differs from the published one."""
        return {}

    @abstractmethod
    def write_submission(self, folder: Path, questions: list[Question], labels: list | None, texts: list[str]) -> None:
        """Writes the answers as the benchmark's own scripts or its server read them, unless that is the run's file."""

    def needed_package(self) -> str | None:
        """What `write_submission` imports beyond what is always installed."""
        return None


def percent(values: np.ndarray, weights: np.ndarray) -> float | None:
    """The weighted mean in percent; `None` of nothing."""
    total = weights.sum()
    return float(100 * (values * weights).sum() / total) if total else None


def ratio(part: float, whole: float) -> float:
    """A share; 0 of nothing, where the published scripts divide by zero."""
    return float(part / whole) if whole else 0.0
