# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Muon for the matrices inside layers, AdamW for the rest, as one optimizer."""

import difflib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import nn

from flashsloth.loading import has_fast_bfloat16


class Muon(torch.optim.Muon):
    """
    `torch.optim.Muon` for many small matrices: it orthogonalizes all matrices of one shape together, and in float32 on
    a CPU without instructions for bfloat16, where torch's bfloat16 takes as long as the rest of a tiny model's step.
    Arguments and state are torch's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.device, parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_together(parameters, group)
        return loss

    def _step_together(self, parameters: list[nn.Parameter], group: dict) -> None:
        """One step of matrices of one shape."""
        lr, momentum = float(group["lr"]), group["momentum"]
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)
            average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
            updates.append(parameter.grad.lerp(average, momentum) if group["nesterov"] else average)
        updates = orthogonalize(torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameters[0].shape
        # Keller Jordan's scale, or Moonshot's, with which the update is as large as AdamW's (arXiv 2502.16982, 2.2).
        match_adamw = group["adjust_lr_fn"] == "match_rms_adamw"
        scale = 0.2 * max(rows, columns) ** 0.5 if match_adamw else max(1, rows / columns) ** 0.5
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype)), alpha=-lr * scale)


def orthogonalize(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float
) -> torch.Tensor:
    """
    Computes the nearest matrices with singular values near 1, by the Newton-Schulz iteration of Muon
    (https://kellerjordan.github.io/posts/muon/).

    Args:
        matrices (`torch.Tensor` of shape `(N, rows, columns)`)
        coefficients (`tuple[float, float, float]`): Coefficients of the first, third and fifth power in an iteration.
        steps (`int`): Number of iterations.
        epsilon (`float`): The smallest norm that a matrix is divided by.

    Returns:
        `torch.Tensor` of shape `(N, rows, columns)`, in bfloat16, or in float32 on a CPU that is slow at that.
    """
    slow = matrices.device.type == "cpu" and not has_fast_bfloat16()
    first, third, fifth = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.float32 if slow else torch.bfloat16)
    x = x.mT if is_tall else x  # the product with its own transpose is the smaller one
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.mT if is_tall else x


def by_learning_rate(
    named_parameters: Iterable[tuple[str, nn.Parameter]], learning_rates: dict[str, float]
) -> dict[str | None, list[tuple[str, nn.Parameter]]]:
    """
    Groups parameters by the module in `learning_rates` that they belong to; `None` holds those that belong to none.
    The longest name that fits decides.

    Raises:
        ValueError: If no parameter belongs to one of the modules.
    """
    members = {module: [] for module in (None, *learning_rates)}
    known = {}
    for name, parameter in named_parameters:
        module = max((m for m in learning_rates if f".{m}." in f".{name}"), key=len, default=None)
        members[module].append((name, parameter))
        modules = name.removeprefix("base_model.model.").split(".")[:-1]  # without PEFT's part of the name
        known |= dict.fromkeys(itertools.accumulate(modules, "{}.{}".format))
    for module in learning_rates:
        if not members[module]:
            closest = difflib.get_close_matches(module, known, n=1, cutoff=0)
            raise ValueError(
                f"learning_rates names {module!r}, but no parameter of such a module is trained; the closest trained "
                f"module is {closest[0] if closest else 'none'!r}"
            )
    return members


def _is_matrix_inside(name: str, parameter: nn.Parameter) -> bool:
    module = name.rpartition(".")[0].rpartition(".")[2]
    return parameter.ndim == 2 and "embed" not in module and module not in ("lm_head", "query_tokens")


class MuonWithAdamW(torch.optim.Optimizer):
    """
    Runs [`Muon`] on the matrices and `torch.optim.AdamW` on everything else: embeddings, heads, norms, biases and
    vectors. Muon's steps are scaled to AdamW's, so that one learning rate serves both.

    Args:
        named_parameters (`Iterable[tuple[str, nn.Parameter]]`): The parameters by name. Names
            distinguish embeddings and heads from other matrices.
        lr (`float`): Learning rate of both.
        weight_decay (`float`, *optional*, defaults to 0.01): Weight decay of the matrices.
        learning_rates (`dict[str, float]`, *optional*): Learning rates by module name, in place of `lr`.

    Raises:
        ValueError: If `learning_rates` names a module that has none of the parameters.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float,
        weight_decay: float = 0.01,
        learning_rates: dict[str, float] | None = None,
    ):
        rates = learning_rates or {}
        matrices, others = [], []
        for module, members in by_learning_rate(named_parameters, rates).items():
            for groups, are_matrices in ((matrices, True), (others, False)):
                parameters = [p for name, p in members if _is_matrix_inside(name, p) == are_matrices]
                if parameters:
                    groups.append({"params": parameters, "lr": rates.get(module, lr), "module": module})
        super().__init__([dict(group) for group in matrices + others], {"lr": lr})
        self.muon = Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98))
        self._share_groups()

    def _share_groups(self) -> None:
        # A scheduler writes the learning rate into these groups, so they must be the ones that the optimizers read.
        self.param_groups = self.muon.param_groups + self.adamw.param_groups

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = self.muon.step(closure)
        self.adamw.step()
        return loss

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()
