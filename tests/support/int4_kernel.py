# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A stand-in for the kernel by which torchao multiplies by int4 weights. It is part of mslk, which needs a GPU; importing
this file lets tests run int4 models on a CPU.
"""

import torch
from torch import library


def multiply(inputs: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor):
    """
    The product with a weight in torchao's plain int4 format.

    Args:
        inputs (`torch.Tensor` of shape `(M, in)`)
        weight (`torch.Tensor` of shape `(out, in / 2)`): two values of -8 to 7 in a byte, the first in its low half.
        scale, zero_point (`torch.Tensor` of shape `(in / group, out)`): a weight is `value * scale + zero_point`.

    Returns:
        `torch.Tensor` of shape `(M, out)`
    """
    scale, zero_point = scale.to(inputs.dtype).t().unsqueeze(-1), zero_point.to(inputs.dtype).t().unsqueeze(-1)
    values = torch.stack([(weight << 4) >> 4, weight >> 4], dim=-1).flatten(1).to(inputs.dtype)  # shifts keep the sign
    groups = values.unflatten(1, (scale.shape[1], -1)) * scale + zero_point
    return inputs @ groups.flatten(1).t()


library.define("mslk::bf16i4bf16_rowwise", "(Tensor X, Tensor WQ, Tensor w_scale, Tensor w_zp) -> Tensor")
library.impl("mslk::bf16i4bf16_rowwise", "CompositeImplicitAutograd", multiply)
