# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Muon: the same steps as torch's, in the precision that the CPU is fast at, and AdamW for all other parameters."""

import copy

import pytest
import torch

from flashsloth.train import optimizers
from flashsloth.train.optimizers import Muon, MuonWithAdamW, orthogonalize


SHAPES = [(24, 8), (8, 24), (24, 8), (16, 16), (4, 4)]  # tall, wide, square; two alike
ITERATION = ((3.4445, -4.7750, 2.0315), 5, 1e-7)  # torch.optim.Muon's


def matrices() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def steps_of(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], seed: int) -> None:
    """Three steps on random gradients; the last matrix never has one."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for parameter in parameters[:-1]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("adjust_lr_fn", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("fast_bfloat16", [True, False])
def test_muon_steps_as_torchs_does(monkeypatch, adjust_lr_fn, nesterov, fast_bfloat16):
    monkeypatch.setattr(optimizers, "has_fast_bfloat16", lambda: fast_bfloat16)
    settings = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": adjust_lr_fn, "nesterov": nesterov}
    ours, theirs, start = matrices(), matrices(), matrices()
    mine, torchs = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    steps_of(mine, ours, seed=1)
    steps_of(torchs, theirs, seed=1)
    mine.load_state_dict(copy.deepcopy(torchs.state_dict()))  # a run that was begun with torch's is resumed
    steps_of(mine, ours, seed=2)
    steps_of(torchs, theirs, seed=2)
    for parameter, expected, before in zip(ours[:-1], theirs[:-1], start[:-1], strict=True):
        moved = (expected - before).norm()
        assert (parameter - expected).norm() < 0.03 * moved  # bfloat16 rounds to 3 digits, six steps
    torch.testing.assert_close(ours[-1], start[-1], rtol=0, atol=0)


def test_precision_follows_the_cpu(monkeypatch):
    for fast_bfloat16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(optimizers, "has_fast_bfloat16", lambda fast=fast_bfloat16: fast)
        assert orthogonalize(torch.randn(2, 4, 8), *ITERATION).dtype == dtype


def test_orthogonalized_matrices_have_singular_values_near_one(monkeypatch):
    monkeypatch.setattr(optimizers, "has_fast_bfloat16", lambda: False)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 20, 6), *ITERATION))
    assert values.shape == (3, 6) and values.min() > 0.5 and values.max() < 1.3


def test_muon_takes_matrices_and_adamw_the_rest():
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(4, 4), "embed_tokens": torch.nn.Embedding(4, 4)})
    optimizer = MuonWithAdamW(model.named_parameters(), lr=0.1)
    [matrices] = [group["params"] for group in optimizer.muon.param_groups]
    assert [id(p) for p in matrices] == [id(model["layer"].weight)]
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.5
    assert optimizer.muon.param_groups[0]["lr"] == 0.5


def test_modules_have_learning_rates_of_their_own():
    model = torch.nn.ModuleDict({name: torch.nn.Linear(4, 4) for name in ("decoder", "projector")})
    optimizer = MuonWithAdamW(model.named_parameters(), lr=0.1, learning_rates={"projector": 0.001})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for half in (optimizer.muon, optimizer.adamw, optimizer):
        rates = {names[id(p)].split(".")[0]: group["lr"] for group in half.param_groups for p in group["params"]}
        assert rates == {"decoder": 0.1, "projector": 0.001}
    with pytest.raises(ValueError, match="'vision_tower', but no parameter of such a module is trained"):
        MuonWithAdamW(model.named_parameters(), lr=0.1, learning_rates={"vision_tower": 0.001})


def test_a_closure_runs_once_and_both_optimizers_step_on_its_gradients():
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(4, 4, bias=False), "embed_tokens": torch.nn.Embedding(4, 4)})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = []

    def closure():
        loss = model["layer"](model["embed_tokens"].weight).square().sum()
        loss.backward()
        losses.append(loss.item())
        return losses[-1]

    assert MuonWithAdamW(model.named_parameters(), lr=0.1).step(closure) == losses[0] and len(losses) == 1
    assert all((parameter != before[name]).any() for name, parameter in model.named_parameters())
