# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The order in which the rows of a set are trained on."""

from collections.abc import Iterator, Sequence

import torch
from datasets import Dataset
from torch.utils.data import Sampler


# Number of global batches of random rows that are sorted by length together: enough that the rows of a batch are of
# similar length, few enough that a batch holds other rows in every epoch.
WINDOW = 50


class ModalityLengthSampler(Sampler[int]):
    """
    Orders the rows of an epoch into global batches (the rows of one optimizer step, over all processes) that hold rows
    of similar length, and either rows with images or rows without. The rows left of both kinds form the last batches.
    The order is a function of seed and epoch alone, and which rows share a global batch does not depend on the number
    of processes.

    accelerate's `BatchSamplerShard` assigns the micro batches of the order to the processes in turn. Within a global
    batch rows are sorted by length, so that micro batches that run at the same time are of similar length. Every other
    round of micro batches is reversed, so that no process always gets the shorter ones.

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
            yield from self._balanced(batches[index]).tolist()
        # The rows of incomplete batches have to come last: batches are cut from the order one after the other.
        yield from torch.cat(left).tolist()

    def _by_length(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[self.lengths[rows].argsort(stable=True)]

    def _balanced(self, batch: torch.Tensor) -> torch.Tensor:
        """The rows of a global batch, with every other round of micro batches from the longest to the shortest."""
        rounds = batch.view(-1, self.num_processes, self.micro_batch_size).clone()
        rounds[1::2] = rounds[1::2].flip(1)
        return rounds.flatten()


class FilledSampler(Sampler[int]):
    """
    An order that ends with full micro batches for all processes. accelerate would fill up the last ones with rows from
    the beginning of the order, which would be trained on twice; here they are filled up with copies of the last row
    that the loss leaves out. The number of such a copy is `-1 - row`, by which [`FilledRows`] recognises it.

    Args:
        order (`Sampler[int]`): The order of an epoch.
        multiple (`int`): Number of rows that all processes together take at a time.
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
    """Rows by the numbers of a [`FilledSampler`]; the collator leaves rows with `is_filler` out of the loss."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        rows = self.dataset.__getitems__([-1 - index if index < 0 else index for index in indices])
        return [row | {"is_filler": index < 0} for row, index in zip(rows, indices, strict=True)]
