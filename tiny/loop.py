# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The loop by which the tiny backbones are trained: logged and resumable."""

import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from flashsloth.loading import has_fast_bfloat16
from flashsloth.train.optimizers import MuonWithAdamW


logger = logging.getLogger(__name__)


def precision() -> torch.autocast:
    """A context in which products of matrices are computed in bfloat16 where the CPU is fast at that."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_fast_bfloat16())


def warm_up_then_decay(step: int, steps: int, warm_up: int = 60, decay_share: float = 0.6) -> float:
    """Factor of the learning rate: linear up, flat, and linear down over the last `decay_share` of the steps."""
    return min((step + 1) / warm_up, (steps - step) / (decay_share * steps), 1.0)


def train(
    model: nn.Module,
    loss_of: Callable[[dict], dict[str, torch.Tensor]],
    batches_from: Callable[[int], Iterable[dict]],
    steps: int,
    learning_rate: float,
    folder: Path,
    measure: Callable[[], dict[str, float]],
    measure_every: int = 150,
    log_every: int = 20,
) -> None:
    """Trains `model` for a fixed number of steps and goes on from the last checkpoint in `folder` if there is one.

    Args:
        model (`nn.Module`): What is trained.
        loss_of (`Callable`): Maps a batch to named losses, which are summed.
        batches_from (`Callable`): Maps a step to the batches from there on.
        steps (`int`): Number of steps.
        learning_rate (`float`): The highest learning rate.
        folder (`Path`): Takes `log.jsonl` and `checkpoint.pt`.
        measure (`Callable`): Figures on validation data, logged with every checkpoint.
        measure_every (`int`): Steps between two checkpoints.
        log_every (`int`): Steps between two lines of the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = MuonWithAdamW(model.named_parameters(), learning_rate)
    schedule = LambdaLR(optimizer, lambda step: warm_up_then_decay(step, steps))
    stateful = (model, optimizer, schedule)
    checkpoint = folder / "checkpoint.pt"
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for part, state in zip(stateful, saved["states"], strict=True):
            part.load_state_dict(state)
        start = saved["step"]
    began = time.monotonic()
    history: dict[str, list[float]] = {}
    model.train()
    for step, batch in enumerate(batches_from(start), start + 1):
        with precision():
            losses = loss_of(batch)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.zero_grad(set_to_none=True)
        for name, loss in losses.items():
            history.setdefault(name, []).append(loss.item())
        if step % log_every == 0:
            record = {"step": step, "seconds": round(time.monotonic() - began, 1)}
            _log(folder, record | {name: round(sum(past) / len(past), 4) for name, past in history.items()})
            history = {}
        if step % measure_every == 0 or step == steps:
            _log(folder, {"step": step} | measure())
            unfinished = checkpoint.with_suffix(".tmp")
            torch.save({"step": step, "states": [part.state_dict() for part in stateful]}, unfinished)
            unfinished.rename(checkpoint)


def _log(folder: Path, record: dict) -> None:
    logger.info("%s", record)
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
