# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Rows through models, by Ray Data. One task reads the rows, on the machine of the command, and hands them over in
batches; workers, each with a model of its own, answer them; the answers come back as they are made. Ray holds few
batches at a time, starts a worker anew that has died, and gives its batch to it again.

Each batch is one row of Ray's data set, as Ray would divide and join rows by their bytes.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import pyarrow


# Read by Ray when it is imported. It would tell its makers of its use, give workers a copy of the working folder where
# `uv run` started the command, and write messages of its processes to standard error.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

# ruff: noqa: E402
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flashsloth.folders.errors import one_line
from flashsloth.serve.answer_files import Answered
from flashsloth.serve.asking import BatchModel, ModelOptions
from flashsloth.serve.questions import Questions, Row


logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 1 << 29  # of shared memory, at most, for batches on their way
STDERR = 2  # the number of its file
MAX_RESTARTS = 10  # of a worker; a row that kills each worker must not do so for ever
MAX_CAUSE = 300  # characters
IMAGE = pyarrow.struct({"content": pyarrow.large_binary(), "address": pyarrow.string()})
ROW = pyarrow.struct(
    {
        "index": pyarrow.int64(),
        "question": pyarrow.string(),
        "images": pyarrow.list_(IMAGE),
        "error": pyarrow.string(),
    }
)
ANSWERED = pyarrow.struct({"index": pyarrow.int64(), "answer": pyarrow.string(), "error": pyarrow.string()})


class WorkerError(OSError):
    """A worker failed, by a fault of its machine or of the program."""


@dataclass(frozen=True)
class Workers:
    """
    The workers of a run.

    Args:
        count (`int`): How many.
        cpus (`int`): Cores of each, and so its threads.
        gpus (`int`): GPUs of each, 0 or 1.
    """

    count: int
    cpus: int
    gpus: int


@contextlib.contextmanager
def ray_session(address: str | None, workers: int | None) -> Iterator[Workers]:
    """
    Starts Ray on this machine, or joins a cluster; a session that is there already is used, and left as it is.

    Args:
        address (`str`, *optional*): Of the cluster that this machine is part of, or "auto"; without it Ray runs here.
        workers (`int`, *optional*): How many to use; one for each GPU if unset, or on a machine without GPUs one.

    Raises:
        ValueError: If there are fewer GPUs or cores than workers, or if the address is not one of a cluster.
    """
    if address and address.startswith("ray://"):
        raise ValueError(f"--address {address} is one of Ray's client: run this on a machine of the cluster.")
    if ray.is_initialized():
        yield plan_workers(workers, _nodes(), is_local=address is None)
        return
    # Ray prints tracebacks of its workers to standard output, errors that are raised here as well.
    with contextlib.redirect_stdout(io.StringIO()):
        start_ray(address, workers)
        try:
            yield plan_workers(workers, _nodes(), is_local=address is None)
        finally:
            ray.shutdown()


def start_ray(address: str | None, workers: int | None) -> None:
    """Connects this process to Ray, as [`ray_session`] does, until `ray.shutdown()`."""
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        cores = max(_num_cores(), workers or 1)
        options |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        options |= {"object_store_memory": OBJECT_STORE_BYTES}
    else:
        options |= {"address": address}
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _silent_stderr():
            ray.init(**options)
    except ConnectionError as error:
        raise ValueError(f"There is no Ray cluster at --address {address}: {one_line(error)}") from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own, which ends the process before it tidies up


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps what is not written by Python off standard error: Ray announces the level of its messages there."""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(nowhere)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def plan_workers(requested: int | None, nodes: list[dict[str, float]], is_local: bool) -> Workers:
    """
    Shares the machines among workers.

    Args:
        requested (`int`, *optional*): How many workers; one for each GPU if unset, or one for each machine.
        nodes (`list[dict[str, float]]`): What each machine has, by Ray's names: "CPU", "GPU".
        is_local (`bool`): Whether there is only the machine of the command.

    Raises:
        ValueError: If there are fewer GPUs or cores than workers.
    """
    place = "this machine" if is_local else "the cluster"
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus:
        if requested and requested > gpus:
            raise ValueError(f"--workers {requested} are more than the GPUs of {place}, {gpus}: each needs one.")
        return Workers(requested or gpus, 1, 1)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    count = requested or len(cores)
    if not count or count > sum(cores):
        raise ValueError(f"--workers {count} are more than the cores of {place}, {sum(cores)}: each needs one.")
    cpus = next(cpus for cpus in range(max(cores), 0, -1) if sum(core // cpus for core in cores) >= count)
    return Workers(count, cpus, 0)


def answer_batches(
    questions: Questions, done: Sequence[int], options: ModelOptions, workers: Workers, batch_size: int
) -> Iterator[list[Answered]]:
    """
    Answers the rows that are left.

    Args:
        questions ([`~flashsloth.serve.questions.Questions`]): The rows.
        done (`Sequence[int]`): For each of the first rows whether it is answered.
        options ([`~flashsloth.serve.asking.ModelOptions`]): The model.
        workers ([`Workers`]): The workers.
        batch_size (`int`): Rows that a worker answers at once.

    Yields:
        `list[Answered]`: The answers to a batch, as soon as they are there.

    Raises:
        WorkerError: If the rows can no longer be read, or a worker fails.
    """
    _quiet_ray()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    source = _Batches(questions, done, batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.64 drops the way in which these two options are passed on
        batches = ray.data.read_datasource(
            source, override_num_blocks=1, num_cpus=0, ray_remote_args={"scheduling_strategy": here}
        ).map_batches(
            _Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers.count),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
            fn_constructor_args=[options, questions.source.folder is not None],
            max_restarts=MAX_RESTARTS,
            max_task_retries=-1,  # tries to reach a worker on a lost machine fail until Ray knows that it is lost
        )
    try:
        for table in batches.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for batch in table["batch"].to_pylist():
                yield [Answered(**fields) for fields in batch]
    except (RayError, ExecutionTimeoutError) as error:
        raise WorkerError(f"A worker failed: {_cause_of(error)}") from error


def _quiet_ray() -> None:
    """Keeps Ray's own bars and news off the terminal, and its blocks as they are made."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the same errors are raised
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # bytes: each block is full at once, so a batch never waits for another one


def _cause_of(error: BaseException) -> str:
    """What a worker died of: the last line of its traceback, or what Ray says of a process that left none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    has_traceback = any(line.startswith("File ") for line in lines)
    return lines[-1] if has_traceback else " ".join(lines)[:MAX_CAUSE]


class _Batches(Datasource):
    """The rows that are left, in batches; one task reads all of them."""

    def __init__(self, questions: Questions, done: Sequence[int], batch_size: int):
        super().__init__()
        self.questions, self.done, self.batch_size = questions, done, batch_size

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        questions, done, batch_size = self.questions, self.done, self.batch_size
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(lambda: read_batches(questions, done, batch_size), unknown)]


def read_batches(questions: Questions, done: Sequence[int], batch_size: int) -> Iterator[pyarrow.Table]:
    """The rows that are left, a table with one row for each batch."""
    rows = questions.rows(done)
    while batch := list(islice(rows, batch_size)):
        yield pyarrow.table({"batch": pyarrow.array([list(map(_pack, batch))], pyarrow.list_(ROW))})


def _pack(row: Row) -> dict:
    images = [
        {"content": None, "address": image} if isinstance(image, str) else {"content": image, "address": None}
        for image in row.images
    ]
    return {"index": row.index, "question": row.question, "images": images, "error": row.error}


def _unpack(fields: dict) -> Row:
    images = tuple(image["address"] if image["content"] is None else image["content"] for image in fields["images"])
    return Row(fields["index"], fields["question"], images, fields["error"])


class _Worker:
    """A model in a process of its own."""

    def __init__(self, options: ModelOptions, local_sources: bool):
        self.model = BatchModel(options, local_sources)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        batches = [self.model([_unpack(fields) for fields in batch]) for batch in table["batch"].to_pylist()]
        answers = [[asdict(answered) for answered in batch] for batch in batches]
        return pyarrow.table({"batch": pyarrow.array(answers, pyarrow.list_(ANSWERED))})
