# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The order of rows: batches of one kind and of similar length, the same for any number of processes, resumable."""

import random

import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from torch.utils.data import BatchSampler

from flashsloth.train.data.sampling import ModalityLengthSampler


ROWS = 1000
GLOBAL_BATCH = 16
MICRO_BATCH = 2
LENGTHS = [random.Random(row).randrange(10, 1000) for row in range(ROWS)]
NUM_IMAGES = [int(row % 5 != 0) + int(row % 7 == 0) for row in range(ROWS)]


def sampler(processes=1, seed=0):
    steps = GLOBAL_BATCH // (processes * MICRO_BATCH)
    return ModalityLengthSampler(LENGTHS, NUM_IMAGES, MICRO_BATCH, processes, steps, seed)


def global_batches(order):
    return [order[start : start + GLOBAL_BATCH] for start in range(0, ROWS, GLOBAL_BATCH)]


def micro_batches(processes, rank, skip=0):
    shard = BatchSamplerShard(BatchSampler(sampler(processes), MICRO_BATCH, False), processes, rank)
    return list(SkipBatchSampler(shard, skip))


def test_every_row_comes_once():
    assert sorted(sampler()) == list(range(ROWS))
    assert len(sampler()) == ROWS


def test_images_and_text_never_share_a_global_batch():
    whole = global_batches(list(sampler()))[:-2]  # what is left of both kinds is less than two global batches
    kinds = [{NUM_IMAGES[row] > 0 for row in batch} for batch in whole]
    assert all(len(kind) == 1 for kind in kinds)
    assert {True} in kinds and {False} in kinds


def test_rows_of_a_batch_are_of_similar_length():
    whole = global_batches(list(sampler()))[:-2]
    spread = [max(LENGTHS[row] for row in batch) - min(LENGTHS[row] for row in batch) for batch in whole]
    assert sum(spread) / len(spread) < 0.15 * (max(LENGTHS) - min(LENGTHS))


def test_the_order_is_that_of_seed_and_epoch():
    first, again, other_seed = sampler(), sampler(), sampler(seed=1)
    assert list(first) == list(first) == list(again)
    assert list(first) != list(other_seed)
    epoch_0 = list(first)
    first.set_epoch(1)
    assert sorted(first) == sorted(epoch_0) and list(first) != epoch_0


@pytest.mark.parametrize("processes", [2, 4])
def test_steps_hold_the_same_rows_on_any_number_of_processes(processes):
    steps = GLOBAL_BATCH // MICRO_BATCH // processes
    ranks = [micro_batches(processes, rank) for rank in range(processes)]
    alone = global_batches(list(sampler()))
    for step, expected in enumerate(alone[: ROWS // GLOBAL_BATCH]):
        rows = [row for rank in ranks for batch in rank[step * steps : (step + 1) * steps] for row in batch]
        assert sorted(rows) == sorted(expected)


def test_processes_get_even_loads():
    ranks = [micro_batches(4, rank) for rank in range(4)]
    padded = [sum(max(LENGTHS[row] for row in batch) for batch in rank) for rank in ranks]
    assert max(padded) < 1.02 * min(padded)


def test_a_resumed_epoch_goes_on_where_it_stopped():
    assert micro_batches(2, 1, skip=37) == micro_batches(2, 1)[37:]


def test_fewer_rows_than_a_batch():
    order = list(ModalityLengthSampler([3, 1, 2], [1, 0, 1], 2, 2, 4, seed=0))
    assert sorted(order) == [0, 1, 2]
