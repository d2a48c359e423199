# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The weights that no backbone has, with the distributions of the published code."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedConfig

from flashsloth.folders.tensors import LazyTensor


def grow_vocabulary(
    tensors: dict[str, LazyTensor], old_size: int, text_config: PreTrainedConfig, generator: torch.Generator
) -> None:
    """Appends rows for the special tokens, in place: normal in embeddings and head, zero in the head's bias."""
    num_rows = text_config.vocab_size - old_size
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"):
        if name not in tensors:
            continue
        old = tensors[name]
        rows = torch.zeros(num_rows, *old.shape[1:])
        if name.endswith("weight"):
            rows.normal_(std=text_config.initializer_range, generator=generator)

        def read(old=old, rows=rows):
            return torch.cat([old.read(), rows.to(old.dtype)])

        tensors[name] = LazyTensor((old.shape[0] + num_rows, *old.shape[1:]), old.dtype, read)


def new_tensors(
    shapes: Mapping[str, tuple[int, ...]],
    present: Mapping[str, LazyTensor],
    std: float,
    generator: torch.Generator,
) -> dict[str, LazyTensor]:
    """The parameters that no backbone has, made in the order of `shapes`, so that a seed fixes them."""
    made = {}
    for name, shape in shapes.items():
        if name in present:
            continue
        tensor = torch.empty(shape)
        if name == "model.query_tokens.weight":
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        elif name.endswith("_norm.weight"):
            tensor.fill_(1.0)
        elif name.endswith(".bias"):
            tensor.zero_()
        else:
            tensor.normal_(std=std, generator=generator)
        made[name] = LazyTensor(shape, tensor.dtype, lambda tensor=tensor: tensor)
    return made
