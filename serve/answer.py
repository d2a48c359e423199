# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Answers to a whole data set: what `flashsloth answer` does. All input is checked before a worker starts; a run that was
stopped goes on where it was.
"""

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import pyarrow
from tqdm import tqdm

from flashsloth.folders.digest import digest_of_model
from flashsloth.folders.downloads import is_folder
from flashsloth.folders.lock import locked
from flashsloth.folders.provenance import describe_source
from flashsloth.parts import find_for_backend
from flashsloth.serve import answer_files
from flashsloth.serve.answer_files import Answered, Journal
from flashsloth.serve.answer_table import check_rows
from flashsloth.serve.asking import ModelOptions
from flashsloth.serve.dataset import answer_batches, ray_session
from flashsloth.serve.questions import Questions


logger = logging.getLogger(__name__)

PACKAGES = ("flashsloth", "transformers", "ray", "datasets", "pyarrow", "pillow")  # and what computes
MAX_LISTED = 20  # errors in the report; the answers have all of them


@dataclass(frozen=True)
class RunOptions:
    """
    How a run is done, on which its answers do not depend.

    Args:
        output (`Path`): The folder of the answers.
        file_format (`str`, *optional*, defaults to `"jsonl"`): Of the answers, or "parquet".
        batch_size (`int`, *optional*, defaults to 8): Rows that a worker answers at once.
        workers (`int`, *optional*), address (`str`, *optional*): See [`~flashsloth.serve.dataset.ray_session`].
        answer_column (`str`, *optional*, defaults to `"answer"`), error_column (`str`, *optional*, defaults to
            `"error"`): The columns that are added.
    """

    output: Path
    file_format: str = "jsonl"
    batch_size: int = 8
    workers: int | None = None
    address: str | None = None
    answer_column: str = "answer"
    error_column: str = "error"

    @property
    def file(self) -> Path:
        """The file of the answers."""
        return self.output / answer_files.ANSWERS.format(self.file_format)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are added, by what is in them."""
        return {"answer": self.answer_column, "error": self.error_column}


@dataclass(frozen=True)
class AnsweredRows:
    """
    The rows of a source with their answers, which may be gone through several times.

    Args:
        questions ([`~flashsloth.serve.questions.Questions`]): The rows.
        journal ([`Journal`], *optional*): Their answers; without it all rows come, with empty ones.
        options ([`RunOptions`]): The names of the columns that are added.
    """

    questions: Questions
    journal: Journal | None
    options: RunOptions

    @property
    def columns(self) -> list[str]:
        """The columns of the source that are kept: all but those of bytes."""
        left_out = self.questions.source.byte_columns
        return [name for name in self.questions.source.columns if name not in left_out]

    @property
    def schema(self) -> pyarrow.Schema | None:
        """The types of all columns, where those of the source are known."""
        if self.questions.source.schema is None:
            return None
        fields = [self.questions.source.schema.field(name) for name in self.columns]
        return pyarrow.schema([*fields, *((name, pyarrow.string()) for name in self.texts)])

    @property
    def texts(self) -> list[str]:
        """The columns that are added, which hold texts even where all of them are missing."""
        asked = [] if self.questions.question is None else [self.questions.question_column]
        return [*asked, *self.options.columns.values()]

    def __iter__(self) -> Iterator[dict]:
        asked = self.questions
        common = {} if asked.question is None else {asked.question_column: asked.question}
        rows = islice(asked.source.rows(self.columns), self.journal and self.journal.num_answered)
        for index, fields in enumerate(rows):
            answered = self.journal.read(index) if self.journal else Answered(index, "", None)
            added = {self.options.answer_column: answered.answer, self.options.error_column: answered.error}
            yield {**fields, **common, **added}
        asked.source.check_unchanged()  # else answers stand beside rows that they do not belong to


def answer_questions(questions: Questions, model: ModelOptions, options: RunOptions) -> dict:
    """
    Answers all rows, and writes the answers and a report.

    Args:
        questions ([`~flashsloth.serve.questions.Questions`]): The rows.
        model ([`~flashsloth.serve.asking.ModelOptions`]): The model.
        options ([`RunOptions`]): How, and where to.

    Returns:
        `dict`: The report.

    Raises:
        ValueError: If the model cannot be loaded, the folder holds other answers or another run writes into it, it is
            in the folder of the questions, a column is there already, the answers' file cannot hold a value of the
            rows, or there are fewer GPUs or cores than workers.
        OSError: If a worker fails, or the Hub cannot be reached.
    """
    _check_columns(questions, options)
    _check_output(questions, options)
    folder = find_for_backend(model.backend, model.model, model.revision, model.dtype)
    run = _describe(questions, model, folder)
    answer_files.check_run(options.output, run)
    if model.backend == "torch" and not model.trust_remote_code:
        from flashsloth.loading import check_folder  # which needs torch

        check_folder(folder)
    if answer_files.finished_report(options.output) is None:
        _check_rows(questions, options)
    with locked(options.output):
        answer_files.check_run(options.output, run)
        report = answer_files.finished_report(options.output)
        if report is not None:
            _check_file(options, report)
            answer_files.remove_leftovers(options.output)
            logger.info("All rows are answered already")
            return report
        answer_files.begin(options.output, run)
        return _ask_rest(questions, _pinned(model, folder), options, run)


def _ask_rest(questions: Questions, model: ModelOptions, options: RunOptions, run: dict) -> dict:
    start = time.perf_counter()
    with Journal(options.output / answer_files.UNFINISHED, questions.source.num_rows) as journal:
        before = journal.num_answered
        total = questions.source.num_rows
        if before:
            logger.info("%s rows are answered already", f"{before:,}")
        if before != total:
            _ask(questions, model, options, journal)
        rows = AnsweredRows(questions, journal, options)
        if left_out := questions.source.byte_columns:
            logger.info("Columns of bytes, which the answers leave out: %s", ", ".join(left_out))
        report = {
            **run,
            "columns": options.columns,
            "counts": {"rows": journal.num_answered, "errors": journal.num_errors},
            "errors": [_listed(answered) for answered in islice(journal.errors(), MAX_LISTED)],
            "last_run": {
                "rows": journal.num_answered - before,
                "seconds": round(time.perf_counter() - start, 1),
                "batch_size": options.batch_size,
            },
            "versions": {package: version(package) for package in (model.backend, *PACKAGES)},
        }
        answer_files.finish(options.output, rows, rows.schema, options.file_format, report, rows.texts)
    return report


def _ask(questions: Questions, model: ModelOptions, options: RunOptions, journal: Journal) -> None:
    with ray_session(options.address, options.workers) as workers:
        logger.info(
            "Starting %s", "1 worker" if workers.count == 1 else f"{workers.count:,} workers with a model each"
        )
        bar = tqdm(
            total=questions.source.num_rows,
            initial=journal.num_answered,
            desc="rows",
            unit="row",
            file=sys.stderr,
            smoothing=0.05,
        )
        with bar:
            for batch in answer_batches(questions, journal.done(), model, workers, options.batch_size):
                questions.source.check_unchanged()
                journal.append(batch)
                bar.update(len(batch))


def _listed(answered: Answered) -> dict:
    return {"row": answered.index + 1, "error": answered.error}


def _check_columns(questions: Questions, options: RunOptions) -> None:
    for added, option in ((options.answer_column, "--answer-column"), (options.error_column, "--error-column")):
        if added in (*questions.source.columns, questions.question_column):
            raise ValueError(f"{questions.source.name} has a column '{added}': name another one by {option}.")
    if options.answer_column == options.error_column:
        raise ValueError(f"--answer-column and --error-column are both '{options.answer_column}': name two columns.")


def _check_output(questions: Questions, options: RunOptions) -> None:
    source = questions.source
    if source.is_folder and options.output.resolve().is_relative_to(source.folder.resolve()):
        raise ValueError(
            f"--output '{options.output}' is in the folder of the questions, '{source.folder}', which would have the "
            "answers among its questions: name a folder elsewhere."
        )


def _check_rows(questions: Questions, options: RunOptions) -> None:
    """Goes through the rows as the end will, if they are on this machine: those of the Hub are downloaded once."""
    if questions.source.folder is None:
        return
    rows = AnsweredRows(questions, None, options)
    if options.file_format == "parquet":
        check_rows(rows, rows.schema, rows.texts)
    else:
        for _ in rows:  # a damaged value fails here
            pass


def _check_file(options: RunOptions, report: dict) -> None:
    """Raises a `ValueError` unless a finished folder holds what is asked for, whole."""
    if not options.file.is_file():
        raise ValueError(
            f"{options.output} is finished, but holds no {options.file.name}: give the --format that it was written "
            "in, or name another --output."
        )
    size, written = options.file.stat().st_size, report.get("bytes")
    if written not in (None, size):  # reports of earlier versions have none
        raise ValueError(
            f"{options.file} is damaged or was edited: it has {size:,} bytes, and had {written:,} when it was "
            "written. Name another --output, or remove the folder to answer its rows anew."
        )
    if (columns := report.get("columns", options.columns)) != options.columns:
        raise ValueError(
            f"{options.output} is finished, with the columns '{columns['answer']}' and '{columns['error']}': give "
            "them as --answer-column and --error-column, or name another --output."
        )


def _describe(questions: Questions, model: ModelOptions, folder: Path) -> dict:
    """What the answers depend on."""
    source = describe_source("model", folder)
    del source["role"]
    return {
        "questions": {
            "name": questions.source.name,
            "digest": questions.source.digest,
            "question_column": questions.question_column,
            "image_column": questions.image_column,
            "question": questions.question,
        },
        "model": source | {"sha256": digest_of_model(folder)},
        "settings": {
            "decoding": "greedy",
            "max_new_tokens": model.max_new_tokens,
            "hd": model.hd,
            "dtype": model.dtype,
            "trust_remote_code": model.trust_remote_code,
            **({} if model.backend == "torch" else {"backend": model.backend}),
        },
    }


def _pinned(model: ModelOptions, folder: Path) -> ModelOptions:
    """The model as all workers find it: by an absolute path, or by the commit that the Hub has now."""
    if is_folder(model.model):
        return replace(model, model=str(folder.absolute()))
    return replace(model, model=model.model.partition("@")[0], revision=folder.name)
