# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""In which order the rows of a set are learned from."""

from collections.abc import Iterator, Sequence

import torch
from datasets import Dataset
from torch.utils.data import Sampler


# Rows are sorted by length among so many global batches of random rows: enough that the rows of a batch are of similar
# length, few enough that which rows meet changes from epoch to epoch.
WINDOW = 50


class ModalityLengthSampler(Sampler[int]):
    """
    Orders the rows of an epoch into global batches (the rows of one optimizer step, over all processes) that hold rows
    of similar length, and either rows with images or rows without. What is left of both kinds forms the last batches.
    The order is a function of seed and epoch alone, and which rows share a global batch does not depend on how many
    processes there are.

    A process gets every `num_processes`-th micro batch of the order (accelerate's `BatchSamplerShard`). Within a
    global batch rows stand by length, so the micro batches that run at the same time are neighbours in length, and
    every other round of them is turned around, so that no process always gets the shorter ones.

    Args:
        lengths (`Sequence[int]`): Length of each row, in any unit.
        num_images (`Sequence[int]`): Number of images of each row.
        micro_batch_size (`int`): Rows that one process takes at a time.
        num_processes (`int`): Number of processes.
        accumulation_steps (`int`): Micro batches of each process in one step.
        seed (`int`): Together with the epoch, decides the order.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        num_images: Sequence[int],
        micro_batch_size: int,
        num_processes: int,
        accumulation_steps: int,
        seed: int,
    ):
        self.lengths = torch.as_tensor(lengths)
        self.has_image = torch.as_tensor(num_images) > 0
        self.micro_batch_size = micro_batch_size
        self.num_processes = num_processes
        self.global_batch_size = micro_batch_size * num_processes * accumulation_steps
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        batches, left = [], []
        for kind in (self.has_image, ~self.has_image):
            rows = kind.nonzero().flatten()
            rows = rows[torch.randperm(len(rows), generator=generator)]
            num_whole = len(rows) // self.global_batch_size * self.global_batch_size
            for window in rows[:num_whole].split(WINDOW * self.global_batch_size):
                batches += self._by_length(window).split(self.global_batch_size)
            left.append(self._by_length(rows[num_whole:]))
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from self._dealt(batches[index]).tolist()
        # The rows of the incomplete batch have to come last: batches are cut from the order one after the other.
        yield from torch.cat(left).tolist()

    def _by_length(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[self.lengths[rows].argsort(stable=True)]

    def _dealt(self, batch: torch.Tensor) -> torch.Tensor:
        """The rows of a global batch, every other round of micro batches from the longest to the shortest."""
        rounds = batch.view(-1, self.num_processes, self.micro_batch_size).clone()
        rounds[1::2] = rounds[1::2].flip(1)
        return rounds.flatten()


class FilledSampler(Sampler[int]):
    """
    An order that ends with full micro batches for all processes. accelerate would fill the last ones up with rows from
    the order's beginning, which would be learned twice; here they are filled with the last row as one that nothing is
    learned from: [`FilledRows`] knows it by its number, `-1 - row`.

    Args:
        order (`Sampler[int]`): The order of an epoch.
        multiple (`int`): Rows that all processes take together at a time.
    """

    def __init__(self, order: Sampler[int], multiple: int):
        self.order = order
        self.multiple = multiple

    def __len__(self) -> int:
        return -(-len(self.order) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        row = 0
        for row in self.order:
            yield row
        yield from [-1 - row] * (len(self) - len(self.order))


class FilledRows(torch.utils.data.Dataset):
    """Rows by the numbers of a [`FilledSampler`]; `is_filler` tells the collator from which nothing is learned."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        rows = self.dataset.__getitems__([-1 - index if index < 0 else index for index in indices])
        return [row | {"is_filler": index < 0} for row, index in zip(rows, indices, strict=True)]
