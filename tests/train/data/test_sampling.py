# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The order of rows: batches of one kind and of similar length, the same for any number of processes, resumable."""

import random

import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from datasets import Dataset
from torch.utils.data import BatchSampler, SequentialSampler

from flashsloth.train.data.sampling import FilledRows, FilledSampler, ModalityLengthSampler


ROWS = 1000
GLOBAL_BATCH = 16
MICRO_BATCH = 2
LENGTHS = [random.Random(row).randrange(10, 1000) for row in range(ROWS)]
NUM_IMAGES = [int(row % 5 != 0) + int(row % 7 == 0) for row in range(ROWS)]


def sampler(num_processes=1, seed=0):
    accumulation_steps = GLOBAL_BATCH // (num_processes * MICRO_BATCH)
    return ModalityLengthSampler(LENGTHS, NUM_IMAGES, MICRO_BATCH, num_processes, accumulation_steps, seed)


def global_batches(order):
    return [order[start : start + GLOBAL_BATCH] for start in range(0, ROWS, GLOBAL_BATCH)]


def micro_batches(num_processes, process_index, skip=0):
    """The micro batches that accelerate assigns to a process, from number `skip` on."""
    order = BatchSampler(sampler(num_processes), MICRO_BATCH, drop_last=False)
    return list(SkipBatchSampler(BatchSamplerShard(order, num_processes, process_index), skip))


def test_every_row_comes_once():
    assert sorted(sampler()) == list(range(ROWS))
    assert len(sampler()) == ROWS


def test_images_and_text_never_share_a_global_batch():
    whole = global_batches(list(sampler()))[:-2]  # the rows left of both kinds are less than two global batches
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


@pytest.mark.parametrize("num_processes", [2, 4])
def test_steps_hold_the_same_rows_on_any_number_of_processes(num_processes):
    accumulation_steps = GLOBAL_BATCH // MICRO_BATCH // num_processes
    shards = [micro_batches(num_processes, index) for index in range(num_processes)]
    alone = global_batches(list(sampler()))
    for step, expected in enumerate(alone[: ROWS // GLOBAL_BATCH]):
        micro_steps = slice(step * accumulation_steps, (step + 1) * accumulation_steps)
        rows = [row for shard in shards for batch in shard[micro_steps] for row in batch]
        assert sorted(rows) == sorted(expected)


def test_processes_get_even_loads():
    shards = [micro_batches(4, index) for index in range(4)]
    padded = [sum(max(LENGTHS[row] for row in batch) for batch in shard) for shard in shards]
    assert max(padded) < 1.02 * min(padded)


def test_a_resumed_epoch_goes_on_where_it_stopped():
    assert micro_batches(2, 1, skip=37) == micro_batches(2, 1)[37:]


def test_fewer_rows_than_a_batch():
    order = list(ModalityLengthSampler([3, 1, 2], [1, 0, 1], 2, 2, 4, seed=0))
    assert sorted(order) == [0, 1, 2]


def test_the_last_batch_is_filled_up_with_rows_that_the_loss_leaves_out():
    """Three rows for two processes of two rows each: the fourth is a copy of the last one, marked as filler."""
    order = FilledSampler(SequentialSampler(range(3)), multiple=4)
    assert list(order) == [0, 1, 2, -3] and len(order) == 4
    rows = FilledRows(Dataset.from_dict({"id": ["a", "b", "c"]})).__getitems__(list(order))
    assert [row["id"] for row in rows] == ["a", "b", "c", "c"]
    assert [row["is_filler"] for row in rows] == [False, False, False, True]
