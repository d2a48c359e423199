# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Two real workers answer what one model answers, each row once, also if one of them is killed."""

import json
import os
import signal
from dataclasses import replace

import psutil
import pytest
import ray
from samples import encode_image, make_image

from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.serve.asking import BatchModel, ModelOptions
from flashsloth.serve.dataset import (
    WorkerError,
    Workers,
    answer_batches,
    plan_workers,
    ray_session,
    read_batches,
    start_ray,
)
from flashsloth.serve.questions import select_columns
from flashsloth.serve.sources import open_source


OPTIONS = ModelOptions(str(SHIPPED_CHECKPOINT), max_new_tokens=6)
WORKERS = Workers(count=2, cpus=1, gpus=0)
NUM_ROWS = 24
BROKEN = {5: "gone.png", 11: "torn.png"}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Rows with an image, several or none, and two broken ones."""
    folder = tmp_path_factory.mktemp("questions")
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(encode_image(make_image(seed)))
    (folder / "torn.png").write_bytes(encode_image(make_image(0))[:80])
    images = [["0.png"], None, ["1.png", "2.png"], ["3.png"]]
    rows = [{"question": f"What is in picture {n}?", "image": images[n % 4]} for n in range(NUM_ROWS)]
    for index, name in BROKEN.items():
        rows[index]["image"] = name
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return select_columns(open_source([str(folder / "q.jsonl")]))


@pytest.fixture(scope="module")
def local_ray():
    start_ray(None, 2)
    yield
    ray.shutdown()


def processes_of_workers() -> dict[int, psutil.Process]:
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::MapWorker"):
                found[process.pid] = process
        except psutil.NoSuchProcess:
            pass
    return found


def test_a_worker_that_is_killed_loses_and_repeats_no_row(local_ray, questions):
    batches = answer_batches(questions, [], OPTIONS, WORKERS, batch_size=2)
    answers = next(batches)
    before = processes_of_workers()
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    for batch in batches:
        answers += batch
    answers.sort(key=lambda answered: answered.index)
    assert answers == BatchModel(OPTIONS, local_sources=True)(list(questions.rows([])))
    assert [answered.index for answered in answers if answered.error] == list(BROKEN)


def test_a_worker_that_cannot_begin_is_named_in_one_line(local_ray, questions, tmp_path):
    options = replace(OPTIONS, model=str(tmp_path / "moved"))
    with pytest.raises(WorkerError, match=r"^A worker failed: .*FileNotFoundError: No model folder at '.*moved'") as e:
        list(answer_batches(questions, [], options, Workers(1, 1, 0), batch_size=8))
    assert "\n" not in str(e.value)


def test_batches_hold_the_rows_that_are_left(questions):
    tables = list(read_batches(questions, [True] * 20, batch_size=3))
    assert [[row["index"] for row in table["batch"][0].as_py()] for table in tables] == [[20, 21, 22], [23]]


ONE, FOUR, GPUS = {"CPU": 1.0}, {"CPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("requested", "nodes", "expected"),
    [
        (None, [FOUR], Workers(1, 4, 0)),
        (2, [FOUR], Workers(2, 2, 0)),
        (3, [FOUR], Workers(3, 1, 0)),
        (None, [FOUR, FOUR], Workers(2, 4, 0)),
        (3, [FOUR, FOUR], Workers(3, 2, 0)),
        (2, [FOUR, ONE, {}], Workers(2, 2, 0)),
        (None, [GPUS], Workers(4, 1, 1)),
        (3, [GPUS, FOUR], Workers(3, 1, 1)),
        (None, [GPUS, GPUS], Workers(8, 1, 1)),
    ],
)
def test_machines_are_shared_among_workers(requested, nodes, expected):
    assert plan_workers(requested, nodes, is_local=False) == expected


@pytest.mark.parametrize(
    ("requested", "nodes", "is_local", "message"),
    [
        (5, [GPUS], True, "--workers 5 are more than the GPUs of this machine, 4"),
        (6, [FOUR, ONE], False, "--workers 6 are more than the cores of the cluster, 5"),
    ],
)
def test_too_many_workers(requested, nodes, is_local, message):
    with pytest.raises(ValueError, match=message):
        plan_workers(requested, nodes, is_local)


def test_the_address_of_a_client_is_refused():
    with (
        pytest.raises(ValueError, match="ray://host:10001 is one of Ray's client"),
        ray_session("ray://host:10001", 1),
    ):
        pass
