# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The training loop of the tiny backbones, with a log and checkpoints."""

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

LOG = "log.jsonl"
CHECKPOINT = "checkpoint.pt"


def precision() -> torch.autocast:
    """Autocast to bfloat16 on a CPU that is fast at it; elsewhere no change."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_fast_bfloat16())


def warm_up_then_decay(step: int, steps: int, warm_up: int = 60, decay_share: float = 0.6) -> float:
    """The factor of the learning rate: linear up, constant, linear down over the last `decay_share` of the steps."""
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
    """
    Trains a model for a fixed number of steps. If `folder` has a checkpoint, training resumes from it.

    Args:
        model (`nn.Module`): The model.
        loss_of (`Callable`): Maps a batch to named losses, which are summed.
        batches_from (`Callable`): Maps the number of finished steps to the batches that follow.
        steps (`int`): The number of steps.
        learning_rate (`float`): The highest learning rate.
        folder (`Path`): The folder of `log.jsonl` and `checkpoint.pt`.
        measure (`Callable`): Returns figures on validation data, which are logged with every checkpoint.
        measure_every (`int`, *optional*, defaults to 150): Steps between two checkpoints.
        log_every (`int`, *optional*, defaults to 20): Steps between two lines of the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = MuonWithAdamW(model.named_parameters(), learning_rate)
    schedule = LambdaLR(optimizer, lambda step: warm_up_then_decay(step, steps))
    stateful = (model, optimizer, schedule)
    start = _resume(folder / CHECKPOINT, stateful)
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
            figures = {"step": step, "seconds": round(time.monotonic() - began, 1)}
            _log(folder, figures | {name: round(sum(past) / len(past), 4) for name, past in history.items()})
            history = {}
        if step % measure_every == 0 or step == steps:
            _log(folder, {"step": step} | measure())
            _save(folder / CHECKPOINT, stateful, step)


def _resume(checkpoint: Path, stateful: tuple) -> int:
    """Loads the states of a checkpoint, if there is one; returns the number of finished steps."""
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    for part, state in zip(stateful, saved["states"], strict=True):
        part.load_state_dict(state)
    return saved["step"]


def _save(checkpoint: Path, stateful: tuple, step: int) -> None:
    """Replaces a checkpoint; an interruption leaves the old one."""
    unfinished = checkpoint.with_suffix(".tmp")
    torch.save({"step": step, "states": [part.state_dict() for part in stateful]}, unfinished)
    unfinished.rename(checkpoint)


def _log(folder: Path, figures: dict) -> None:
    logger.info("%s", figures)
    with (folder / LOG).open("a") as file:
        file.write(json.dumps(figures) + "\n")
