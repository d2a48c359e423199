# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The folder of a run: whether it can be written, and the note of what the answers in it are answers of, `run.json`.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from flashsloth.eval.files import check_fields, read_json_file, shown, write_json
from flashsloth.eval.questions import Question
from flashsloth.eval.report import OUTCOMES, REPORT


NOTE = "run.json"
SUBMISSION = "submission"  # a folder
NOTED = {"task": str, "questions": str, "model": dict, "settings": dict, "versions": dict, "images": dict}
NOTED |= {"dtype": str}  # once the model is loaded, and before there are answers
REMEDY = "name another folder with --output, or remove this one"


def check_output(output: Path, files: tuple[str, ...]) -> None:
    """
    Raises a `ValueError` unless a run can write its files into a folder, which need not be there. It makes nothing.

    Args:
        output (`Path`): The folder.
        files (`tuple[str, ...]`): The names of the files that the run writes.
    """
    try:
        os.stat(output)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"--output {shown(str(output))} cannot be made: {error.strerror}. Name another.") from error
    path = output.absolute()
    nearest = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise ValueError(f"--output {output} cannot be made: {nearest} is no folder. Name another.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"--output {output} cannot be written to: name another folder, or change its permissions.")
    for name in files:
        if (output / name).is_dir():
            raise ValueError(f"{output / name} is a folder, in the place of a file of the run: {REMEDY}.")
    submission = output / SUBMISSION
    if os.path.lexists(submission) and not submission.is_dir():
        raise ValueError(f"{submission} is a file, in the place of a folder of the run: {REMEDY}.")
    if submission.is_dir() and not os.access(submission, os.W_OK | os.X_OK):
        raise ValueError(f"{submission} cannot be written to: {REMEDY}.")


def forget_report(output: Path) -> None:
    """Removes the report and the submission of an earlier run, some of whose questions will be asked again."""
    for name in (REPORT, OUTCOMES):
        (output / name).unlink(missing_ok=True)
    if (output / SUBMISSION).is_dir():
        shutil.rmtree(output / SUBMISSION)


def begin_note(output: Path, run: dict, images: dict[str, str], answered: Mapping, questions: list[Question]) -> None:
    """
    Notes what the answers of a folder are answers of, and compares it with the note that is there.

    Args:
        output (`Path`): The folder.
        run (`dict`): Task, questions, model, settings and versions.
        images (`dict[str, str]`): A hash of each image, by its name.
        answered (`dict`): The answers that are there, by the keys of their questions.
        questions (`list[Question]`): All questions.

    Raises:
        ValueError: If the answers are of another run, about other images, or if nothing says whose they are.
    """
    noted = _read_note(output) if answered else {}
    for name, value in run.items():
        before, now = (noted.setdefault(name, value), value)
        if name == "model" and "sha256" in before:  # a folder may have another name since
            before, now = before["sha256"], now.get("sha256")
        if before != now:
            raise ValueError(f"{output} holds answers of a run that differs in its {name}: {REMEDY}.")
    before = noted.setdefault("images", images)
    for question in questions:  # images of other questions may have been repaired since
        name = question.image_name
        if question.key in answered and before.get(name) != images[name]:
            raise ValueError(f"{output} holds an answer about another image {name}: {REMEDY}.")
    write_json({**noted, "images": images}, output / NOTE)


def note_dtype(output: Path, dtype: str) -> None:
    """
    Notes the dtype of the model that answers.

    Raises:
        ValueError: If the answers that are there are of another one.
    """
    noted = read_json_file(output / NOTE)  # `begin_note` wrote it
    if noted.setdefault("dtype", dtype) != dtype:
        raise ValueError(f"{output} holds answers of a run that differs in its dtype: {REMEDY}.")
    write_json(noted, output / NOTE)


def noted_dtype(output: Path) -> str:
    """The dtype of the model that gave all the answers."""
    return _read_note(output)["dtype"]


def _read_note(output: Path) -> dict:
    """The note beside answers."""
    file = output / NOTE
    if not file.is_file():
        raise ValueError(f"{output} holds answers of which nothing says whose: {REMEDY}.")
    try:
        noted = read_json_file(file)
        check_fields(noted, NOTED, str(file))
    except ValueError as error:
        raise ValueError(f"{error} The file is damaged: {REMEDY}.") from error
    return noted
