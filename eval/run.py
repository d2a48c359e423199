# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
One run of a benchmark: read its files, ask the model or take given answers, score them, and report. All input is
checked before the model is loaded. With given answers, nothing here imports torch.
"""

import importlib
import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flashsloth.eval.benchmark import Benchmark
from flashsloth.eval.files import is_file
from flashsloth.eval.gqa import GQA
from flashsloth.eval.mmbench import MMBench
from flashsloth.eval.mme import MME
from flashsloth.eval.pope import POPE
from flashsloth.eval.questions import (
    ANSWERS,
    Question,
    check_images,
    check_questions,
    fingerprint_of_images,
    fingerprint_of_questions,
    image_digests,
    read_answers,
)
from flashsloth.eval.report import (
    OUTCOMES,
    REPORT,
    make_report,
    read_evaluations,
    versions,
    write_evaluations,
    write_report,
)
from flashsloth.eval.run_folder import (
    NOTE,
    SUBMISSION,
    begin_note,
    check_output,
    forget_report,
    note_dtype,
    noted_dtype,
)
from flashsloth.eval.textvqa import TextVQA
from flashsloth.folders.digest import digest_of_model
from flashsloth.folders.lock import LOCK, locked
from flashsloth.folders.provenance import describe_source


logger = logging.getLogger(__name__)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (GQA(), MMBench(), MME(), POPE(), TextVQA())
}
DTYPES = ("float32", "bfloat16", "float16")  # those that say what they are; others depend on checkpoint and machine
FILES = (ANSWERS, NOTE, LOCK, REPORT, OUTCOMES)  # of a run


@dataclass(frozen=True)
class ModelOptions:
    """
    Which model answers, and how.

    Args:
        model (`str`): A folder, or `owner/name` on the Hub.
        revision (`str`, *optional*): Commit, branch or tag on the Hub.
        dtype (`str`, *optional*, defaults to `"fast"`), trust_remote_code (`bool`, *optional*, defaults to `False`):
            See [`flashsloth.loading.load_model_and_processor`].
        hd (`bool`, *optional*): Whether images are processed in high definition; the checkpoint's default if unset.
        batch_size (`int`, *optional*, defaults to 8): Questions in a batch.
        write (`bool`, *optional*, defaults to `False`): Put the scores into the model folder's `evaluation.json`.
        backend (`str`, *optional*, defaults to `"torch"`): See [`flashsloth.load`].
    """

    model: str
    revision: str | None = None
    dtype: str = "fast"
    trust_remote_code: bool = False
    hd: bool | None = None
    batch_size: int = 8
    write: bool = False
    backend: str = "torch"


@dataclass(frozen=True)
class Task:
    """The questions of a run and, as far as they are given, their labels."""

    benchmark: Benchmark
    questions: list[Question]
    labels: list | None
    command: str  # repeats the run, by the names of files without their folders


def read_task(name: str, files: list[Path], labels: Path | None = None, images: Path | None = None) -> Task:
    """
    Reads and checks the files of a benchmark.

    Args:
        name (`str`): "gqa", "mmbench", "mme", "pope" or "textvqa".
        files (`list[Path]`): The published question files.
        labels (`Path`, *optional*): The published labels; by default those in the question files, if they hold any.
        images (`Path`, *optional*): The folder of the images; by default that of the questions.

    Raises:
        ValueError: If a file is malformed, of another benchmark, or holds labels of other questions.
        ModuleNotFoundError: If the benchmark needs a package that is not installed.
    """
    benchmark = BENCHMARKS[name]
    if benchmark.needed_package():
        importlib.import_module(benchmark.needed_package())
    for file in files:
        if not os.path.exists(file):
            raise ValueError(f"{file} is not there: name the question file of {benchmark.title}.")
    if labels and not benchmark.takes_labels:
        raise ValueError(f"{benchmark.title}'s labels are in its question files: leave out --labels.")
    with _pointing_to_the_formats():
        questions = benchmark.read_questions(files, images or benchmark.images_folder(files, labels))
    check_questions(questions)
    source = labels or benchmark.own_labels(files)
    with _pointing_to_the_formats():
        found = benchmark.read_labels(source, questions) if source else None
    words = ["flashsloth", "eval", "--task", name, "--questions", *(file.name for file in files)]
    words += ["--labels", labels.name] if labels else []
    return Task(benchmark.variant(questions), questions, found or None, shlex.join(words))


@contextmanager
def _pointing_to_the_formats() -> Iterator[None]:
    """Says behind an error of a benchmark's files where these are described."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error} docs/evaluation.md shows the format.") from error


def score_answers(task: Task, answers: Path, output: Path) -> dict:
    """
    Scores given answers.

    Args:
        task ([`Task`]): The questions and labels.
        answers (`Path`): JSON lines in the published format.
        output (`Path`): The folder of the report.

    Returns:
        `dict`: The report.

    Raises:
        ValueError: If the answers do not match the questions, or if the folder holds those of a model or cannot be
            written to.
    """
    check_output(output, FILES)
    texts = read_answers(answers, task.questions, task.benchmark.key)
    has_images = all(isinstance(q.image, bytes) or is_file(q.image) for q in task.questions)
    images = fingerprint_of_images(image_digests(task.questions)) if has_images else None
    run = {"model": None, "settings": {"answers": answers.name}, "command": task.command}
    with locked(output):
        if (output / NOTE).is_file():
            raise ValueError(f"{output} holds the answers of a model ({NOTE}): choose another --output.")
        return _finish(task, texts, output, {**_fingerprint(task), "images": images}, run)


def ask_model(task: Task, options: ModelOptions, output: Path) -> dict | None:
    """
    Asks a model, and scores its answers. A run that was stopped goes on where it was.

    Args:
        task ([`Task`]): The questions and labels.
        options ([`ModelOptions`]): The model.
        output (`Path`): The run's folder.

    Returns:
        `dict`, *optional*: The report; `None` in all processes but the first.

    Raises:
        ValueError: If the folder holds answers of another run or is that of one that is going on, an image is not
            there, the model cannot be loaded, the scores could not be written, or questions failed.
        OSError: If questions failed because the machine did.
        MemoryError: If the machine's memory is too small for a batch.
    """
    from flashsloth.eval import asking
    from flashsloth.parts import find_for_backend

    check_output(output, (*FILES, asking.FAILURES))
    check_images(task.questions)
    _check_write(task, options)
    folder = find_for_backend(options.backend, options.model, options.revision, options.dtype)
    with ExitStack() as held:
        with asking.this_process() as process:
            if process.is_first:
                run, images = _begin(task, options, folder, output, held)
            process.wait_for_all()
            _ask_rest(task, options, folder, output, process)
            process.wait_for_all()
            if not process.is_first:
                return None
            texts = asking.merge(output, task.questions, task.benchmark.key)
        settings = {**run["settings"], "dtype": noted_dtype(output), "batch_size": options.batch_size}
        hd = {None: "", True: " --hd", False: " --no-hd"}[options.hd]
        about = {"model": run["model"], "settings": settings, "command": task.command + hd}
        fingerprint = {**_fingerprint(task), "images": fingerprint_of_images(images)}
        report = _finish(task, texts, output, fingerprint, about)
        if options.write:
            write_evaluations(folder, task.benchmark, report)
    return report


def _begin(
    task: Task, options: ModelOptions, folder: Path, output: Path, held: ExitStack
) -> tuple[dict, dict[str, str]]:
    """Describes the run and its images, locks the folder, and looks whether the answers in it belong to the run."""
    from flashsloth.eval import asking

    run, images = _describe(task, options, folder), image_digests(task.questions)
    held.enter_context(locked(output))  # the other processes belong to this one
    if (output / REPORT).is_file() and not any((output / name).is_file() for name in (NOTE, ANSWERS)):
        raise ValueError(f"{output} holds the report of given answers ({REPORT}): choose another --output.")
    answered = asking.answered(output, task.benchmark.key)
    begin_note(output, run, images, answered, task.questions)
    if any(question.key not in answered for question in task.questions):
        forget_report(output)
    asking.forget_failures(output)
    return run, images


def _check_write(task: Task, options: ModelOptions) -> None:
    """Raises a `ValueError` if --write is given and would fail once everything is asked."""
    if not options.write:
        return
    if task.labels is None:
        raise ValueError("--write needs --labels: without them there are no scores to write.")
    if options.hd is not None:
        name = "--hd" if options.hd else "--no-hd"
        raise ValueError(f"--write puts scores of the checkpoint's own setting into its folder: leave out {name}.")
    if not os.path.isdir(options.model):
        raise ValueError(f"--write puts scores into a model folder, and {options.model} is none: name one.")
    read_evaluations(Path(options.model))


def _ask_rest(task: Task, options: ModelOptions, folder: Path, output: Path, process) -> None:
    """Loads the model, if questions are left, and asks this process's share of them."""
    from flashsloth.eval import asking

    done = asking.answered(output, task.benchmark.key)
    if all(question.key in done for question in task.questions):
        if options.dtype in DTYPES:
            note_dtype(output, options.dtype)
        return
    ask, dtype = _load(folder, options, task.benchmark.max_new_tokens)
    if process.is_first:
        note_dtype(output, dtype)
    process.wait_for_all()  # no answer is there before the note of what it is an answer of
    source = _source(folder)
    name = source.get("repo") or source["folder"]
    asking.ask_all(task.questions, ask, output, task.benchmark.key, name, options.batch_size, process)


def _load(folder: Path, options: ModelOptions, max_new_tokens: int):
    """The model that answers, and its dtype."""
    from flashsloth import load
    from flashsloth.eval import asking

    if options.backend == "torch":
        from flashsloth.eval import greedy
        from flashsloth.loading import load_model_and_processor

        model, processor = load_model_and_processor(str(folder), None, options.trust_remote_code, options.dtype)
        dtype = str(model.dtype).removeprefix("torch.")
        return greedy.GreedyModel(model, processor, max_new_tokens, options.hd), dtype
    assistant = load(
        folder,
        backend=options.backend,
        hd=options.hd,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )
    return asking.GreedyAssistant(assistant, max_new_tokens), assistant.model.dtype


def _finish(task: Task, texts: list[str], output: Path, fingerprint: dict, run: dict) -> dict:
    """Judges the answers, and writes all files but those of the answers."""
    benchmark, questions, labels = task.benchmark, task.questions, task.labels
    table = benchmark.judge(questions, labels, texts) if labels else None
    if table is None:
        logger.warning("Without labels there is no score: give --labels, or hand in %s.", output / SUBMISSION)
    if table is not None and not benchmark.is_published(len(questions)):
        sizes = " or ".join(f"{size:,}" for size in benchmark.sizes)
        logger.warning(
            "These are %s questions, and those of %s %s are %s: the scores are of a set of your own.",
            f"{len(questions):,}",
            benchmark.title,
            benchmark.split,
            sizes,
        )
    report = make_report(benchmark, table, questions, fingerprint, run)
    benchmark.write_submission(output / SUBMISSION, questions, labels, texts)
    write_report(output, report, table, questions)
    return report


# What a folder's answers are answers of


def _describe(task: Task, options: ModelOptions, folder: Path) -> dict:
    return {
        "task": task.benchmark.name,
        "questions": _fingerprint(task)["questions"],
        "model": {**_source(folder), "sha256": digest_of_model(folder)},
        "settings": {
            "decoding": "greedy",
            "max_new_tokens": task.benchmark.max_new_tokens,
            "hd": options.hd,
            **({} if options.backend == "torch" else {"backend": options.backend}),
        },
        "versions": versions(options.backend),
    }


def _source(folder: Path) -> dict[str, str]:
    """The model's repository and revision on the Hub, or the name of its folder."""
    source = describe_source("model", folder)
    return {name: value for name, value in source.items() if name != "role"}


def _fingerprint(task: Task) -> dict:
    return fingerprint_of_questions(task.questions, task.labels)
