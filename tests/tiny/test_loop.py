# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The training loop of the backbones: learning rates, the log, and runs that were stopped."""

import json

import pytest
import torch
from torch import nn

from flashsloth.tiny.loop import CHECKPOINT, LOG, train, warm_up_then_decay


STEPS = 7


def run(folder, until=STEPS, log_every=2, learning_rate=1e-2) -> tuple[nn.Module, list[int]]:
    """Trains a small model up to a step, or resumes; returns it, and the numbers of the batches that it saw."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    seen = []

    def batches_from(start):
        for number in range(start, until):
            seen.append(number)
            yield {"inputs": torch.randn(6, 4, generator=torch.Generator().manual_seed(number))}

    def loss_of(batch):
        outputs = model(batch["inputs"])
        return {"first": (outputs[:, 0] - 1).square().mean(), "second": outputs[:, 1].square().mean()}

    train(
        model,
        loss_of,
        batches_from,
        STEPS,
        learning_rate,
        folder,
        measure=lambda: {"right": 0.5},
        measure_every=3,
        log_every=log_every,
    )
    return model, seen


def log_of(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_resumed_loop_equals_an_uninterrupted_one(tmp_path):
    whole, seen = run(tmp_path / "whole", log_every=1)
    assert seen == list(range(STEPS))
    run(tmp_path / "parts", until=5, log_every=1)  # its last checkpoint is that of step 3
    parts, seen = run(tmp_path / "parts", log_every=1)
    assert seen == [3, 4, 5, 6]
    assert all(torch.equal(tensor, parts.state_dict()[name]) for name, tensor in whole.state_dict().items())
    last = {line["step"]: line for line in log_of(tmp_path / "parts") if "first" in line}
    assert list(last.values()) == [line for line in log_of(tmp_path / "whole") if "first" in line]
    checkpoints = [torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "parts")]
    assert [checkpoint["step"] for checkpoint in checkpoints] == [STEPS, STEPS]


def test_a_finished_loop_takes_no_other_step(tmp_path):
    whole, _ = run(tmp_path)
    before = log_of(tmp_path)
    again, seen = run(tmp_path)
    assert seen == [] and log_of(tmp_path) == before
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_a_kill_while_a_checkpoint_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    run(tmp_path, until=4)
    before = (tmp_path / CHECKPOINT).read_bytes()
    save = torch.save

    def killed(content, file):
        save(content, file)
        file.write_bytes(file.read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_the_log_has_mean_losses_and_what_was_measured(tmp_path):
    run(tmp_path / "each", log_every=1, learning_rate=0.0)
    run(tmp_path / "pairs", log_every=2, learning_rate=0.0)
    each, pairs = (
        {line["step"]: line["first"] for line in log_of(tmp_path / name) if "first" in line}
        for name in ("each", "pairs")
    )
    assert list(pairs) == [2, 4, 6]
    for step, mean in pairs.items():
        assert mean == pytest.approx((each[step - 1] + each[step]) / 2, abs=1e-4)
    measured = [line for line in log_of(tmp_path / "pairs") if "right" in line]
    assert measured == [{"step": step, "right": 0.5} for step in (3, 6, STEPS)]


def test_the_learning_rate_rises_stays_and_falls():
    rates = [warm_up_then_decay(step, steps=1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 60) and rates[59] == 1.0
    assert set(rates[59:400]) == {1.0}
    assert rates[700] == pytest.approx(0.5) and rates[-1] == pytest.approx(1 / 600)
    assert rates[400:] == sorted(rates[400:], reverse=True)
