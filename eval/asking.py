# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Asking a model all questions of a benchmark, in batches of similar length, greedily. Each process appends its answers
to a file of its own, so that a run that was killed goes on where it stopped: a question that is answered is not asked
again, and half a line at the end of a file, which a kill may leave, is as if it were not there.

Batches do not depend on the number of processes, so that several give the answers of one.

Only several processes need accelerate, and only models of torch need torch.
"""

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from textwrap import shorten

from tqdm import tqdm
from transformers.utils import is_torch_available

from flashsloth.eval.files import ID, Kind, read_rows, write_rows
from flashsloth.eval.questions import ANSWERS, Key, Question
from flashsloth.folders.errors import named_in_errors, one_line
from flashsloth.image_reading_flashsloth import UNREACHABLE_IMAGE, ImageError, read_image


PART = "answers.part-{}.jsonl"
FAILURES = "failures.jsonl"
FAILURES_PART = "failures.part-{}.jsonl"
MAX_LISTED = 20  # failures named in the error; the file has all of them
MAX_REASON = 150  # characters of a library's error
LONGEST_RUN = timedelta(days=7)  # a process waits so long for the others
# What a line of a file of answers and of one of failures must have.
ANSWER = {"question_id": ID, "prompt": str, "text": str}
FAILURE = {"question_id": ID, "prompt": str, "error": str, "cause": str}
INPUT, MACHINE = "input", "machine"  # causes of failures
# Errors of the system that are about what the user named: what the command line takes as bad input.
OF_THE_INPUT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
Ask = Callable[[Sequence[Question]], list[str]]


@dataclass(frozen=True)
class Process:
    """This process among those that torchrun or accelerate started."""

    index: int = 0
    count: int = 1
    wait_for_all: Callable[[], None] = lambda: None

    @property
    def is_first(self) -> bool:
        return self.index == 0


@contextmanager
def this_process() -> Iterator[Process]:
    """This process, while it works together with the others, if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Process()
        return
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=LONGEST_RUN)

    def wait_for_all() -> None:
        try:
            state.wait_for_everyone()
        except RuntimeError as error:  # torch's, when a connection is closed
            raise ValueError("Another process of this run has ended: its message says why.") from error

    yield Process(state.process_index, state.num_processes, wait_for_all)
    state.destroy_process_group()


class GreedyAssistant:
    """
    An assistant that answers batches of questions with greedy decoding, whatever computes it.

    Args:
        assistant ([`~flashsloth.assistant.assistant.Assistant`]): Answers.
        max_new_tokens (`int`): The longest answer.
    """

    def __init__(self, assistant, max_new_tokens: int):
        self.assistant, self.max_new_tokens = assistant, max_new_tokens

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """
        Raises:
            ValueError: If an image cannot be read, or a prompt is longer than the decoder.
        """
        images = [read_image(one.image, f"the image of question {' '.join(one.key)!r}") for one in questions]
        prompts = [question.prompt for question in questions]
        return list(map(str, self.assistant.ask(images, prompts, max_new_tokens=self.max_new_tokens)))


def batches_of(questions: Sequence[Question], batch_size: int) -> list[list[Question]]:
    """Batches of prompts of similar length, the longest first: what does not fit into memory fails at once."""
    ordered = sorted(questions, key=lambda question: (-len(question.prompt), question.image_name, question.key))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def answered(folder: Path, key_of: Callable[[str | int, str], Key]) -> dict[Key, dict]:
    """The lines of all answers in a folder by the keys of their questions."""
    files = [file for file in [folder / ANSWERS] if file.is_file()] + sorted(folder.glob(PART.format("*")))
    rows = (row for file in files for row in _whole_rows(file, ANSWER))
    return {key_of(row["question_id"], row["prompt"]): row for row in rows}


def forget_failures(folder: Path) -> None:
    """Removes the lists of failures of an earlier run, whose questions will be asked again."""
    for file in (*folder.glob(FAILURES_PART.format("*")), folder / FAILURES):
        file.unlink(missing_ok=True)


def ask_all(
    questions: Sequence[Question],
    ask: Ask,
    folder: Path,
    key_of: Callable[[str | int, str], Key],
    model_id: str,
    batch_size: int,
    process: Process,
) -> None:
    """
    Asks this process's share of the questions that have no answer yet, and appends the answers to its file. A question
    that fails is written to its file of failures, with the error and whether the input or the machine is its cause.

    Args:
        questions (`Sequence[Question]`): All questions, the same in each process.
        ask (`Callable`): Answers a batch; a `ValueError` or `OSError` of it is a failure.
        folder (`Path`): The run's folder.
        key_of (`Callable`): Makes the key of a question of its id and prompt.
        model_id (`str`): The name of the model in the file.
        batch_size (`int`): The number of questions in a batch.
        process ([`Process`]): This process.

    Raises:
        MemoryError: If the machine's memory is too small for a batch.
        OSError: If the device fails, or an answer cannot be written.
        ValueError: If a file of answers is damaged.
    """
    done = answered(folder, key_of)
    share = batches_of(questions, batch_size)[process.index :: process.count]
    total = sum(map(len, share))
    share = [[question for question in batch if question.key not in done] for batch in share]
    file = folder / PART.format(process.index)
    _cut_half_line(file)
    bar, failures = _progress_bar(total - sum(map(len, share)), total, process), []
    with bar, named_in_errors(file), file.open("a", encoding="utf-8") as lines:
        for batch in filter(None, share):
            with _machine_errors(len(batch)):
                answers, failed = _ask_batch(batch, ask)
            lines.write("".join(_line(question, text, model_id) for question, text in answers))
            lines.flush()
            os.fsync(lines.fileno())
            failures += failed
            write_rows(failures, folder / FAILURES_PART.format(process.index))
            bar.update(len(batch))


def _progress_bar(done: int, total: int, process: Process) -> tqdm:
    return tqdm(
        total=total,
        initial=done,
        desc="questions" if process.count == 1 else f"questions of 1 of {process.count} processes",
        unit="question",
        file=sys.stderr,
        disable=not process.is_first,
    )


def _ask_batch(batch: list[Question], ask: Ask) -> tuple[list[tuple[Question, str]], list[dict]]:
    """The answers to a batch, and its failures. A batch that fails is asked one by one: most of it may be sound."""
    try:
        return list(zip(batch, ask(batch), strict=True)), []
    except (ValueError, OSError) as error:
        if len(batch) == 1:
            failure = {"question_id": batch[0].id, "prompt": batch[0].prompt}
            return [], [failure | {"error": one_line(error), "cause": _cause(error)}]
    parts = [_ask_batch([question], ask) for question in batch]
    answers, failures = (list(chain.from_iterable(lists)) for lists in zip(*parts, strict=True))
    return answers, failures


def _cause(error: Exception) -> str:
    """Whether the input is to blame for an error, or the machine: a disk that cannot be read."""
    if isinstance(error, ImageError) and error.reason == UNREACHABLE_IMAGE:
        error = error.__cause__ or error
    is_machines = isinstance(error, OSError) and not isinstance(error, OF_THE_INPUT)
    return MACHINE if is_machines else INPUT


@contextmanager
def _machine_errors(batch_size: int) -> Iterator[None]:
    """Makes errors of memory and device such as the command line reports in one line: no question is to blame."""
    kept = "The answers so far are kept: the same command continues after them."
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = shorten(str(error), MAX_REASON)
        if _is_of_the_memory(error):
            remedy = "lower --batch-size" if batch_size > 1 else "use a machine with more"
            raise MemoryError(f"for a batch of {batch_size} ({reason}): {remedy}. {kept}") from error
        if _is_of_the_device(error):
            raise OSError(f"The device has failed ({reason}). {kept}") from error
        raise


def _is_of_the_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or not is_torch_available():
        return isinstance(error, MemoryError)
    from accelerate.utils.memory import should_reduce_batch_size

    return should_reduce_batch_size(error)


def _is_of_the_device(error: Exception) -> bool:
    if not is_torch_available():
        return False
    import torch

    return isinstance(error, torch.AcceleratorError)


def merge(folder: Path, questions: Sequence[Question], key_of: Callable[[str | int, str], Key]) -> list[str]:
    """
    Writes the answers of all processes into one file, in the order of the questions, once all are there.

    Returns:
        `list[str]`: The texts of the answers, in that order.

    Raises:
        ValueError: If questions failed; the message lists them, and so does a file.
        OSError: If the machine is to blame for all failures.
    """
    files = sorted(folder.glob(FAILURES_PART.format("*")))
    failures = [row for file in files for row in _whole_rows(file, FAILURE)]
    if failures:
        forget_failures(folder)
        write_rows(failures, folder / FAILURES)
        more = f" and {len(failures) - MAX_LISTED} more" if len(failures) > MAX_LISTED else ""
        listed = "; ".join(failure["error"] for failure in failures[:MAX_LISTED])
        kind = OSError if all(failure["cause"] == MACHINE for failure in failures) else ValueError
        raise kind(
            f"{len(failures)} of {len(questions)} questions failed, so there is no score ({listed}{more}). "
            f"{folder / FAILURES} lists them. The same command asks them again, and no others."
        )
    rows = answered(folder, key_of)
    write_rows([rows[question.key] for question in questions], folder / ANSWERS)
    for file in (*folder.glob(PART.format("*")), *folder.glob(FAILURES_PART.format("*"))):
        file.unlink()
    return [rows[question.key]["text"] for question in questions]


def _line(question: Question, text: str, model_id: str) -> str:
    """A line of the published file of answers."""
    name = json.dumps([model_id, question.key, text])
    row = {
        "question_id": question.id,
        **question.fields,
        "prompt": question.prompt,
        "text": text,
        "answer_id": uuid.uuid5(uuid.NAMESPACE_OID, name).hex,  # the same answer has the same id
        "model_id": model_id,
        "metadata": {},
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _whole_rows(file: Path, fields: Mapping[str, Kind]) -> list[dict]:
    """The lines of a file that another process may be writing; half a line at its end is left out."""
    try:
        return read_rows(file, fields, whole_lines=True)
    except ValueError as error:
        remedy = "Remove the line, or the file, and its questions are asked again."
        raise ValueError(f"{error} The file is damaged. {remedy}") from error


def _cut_half_line(file: Path) -> None:
    if file.is_file():
        content = file.read_bytes()
        os.truncate(file, content.rfind(b"\n") + 1)
