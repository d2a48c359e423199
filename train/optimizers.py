# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Muon for the matrices inside layers, AdamW for the rest, as one optimizer."""

from collections.abc import Callable, Iterable

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """
    Runs `torch.optim.Muon` on the matrices and `torch.optim.AdamW` on everything else: embeddings, heads, norms,
    biases and vectors. Muon's steps are scaled to AdamW's, so that one learning rate serves both.

    Args:
        named_parameters (`Iterable[tuple[str, nn.Parameter]]`): names decide what is an embedding or a head.
        lr (`float`): Learning rate of both.
        weight_decay (`float`, *optional*, defaults to 0.01): of the matrices.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float = 0.01):
        matrices, others = [], []
        for name, parameter in named_parameters:
            module = name.rpartition(".")[0].rpartition(".")[2]
            is_table = "embed" in module or module in ("lm_head", "query_tokens")
            (matrices if parameter.ndim == 2 and not is_table else others).append(parameter)
        super().__init__(matrices + others, {"lr": lr})
        self.muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98))
        self._share_groups()

    def _share_groups(self) -> None:
        # A scheduler writes the learning rate into these groups: they must be those that the two optimizers read.
        self.param_groups = self.muon.param_groups + self.adamw.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()
