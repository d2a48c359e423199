# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Plans: counts, steps and bytes, compared with the model itself, and the command that prints them."""

import json
import resource

import pytest
from samples import make_config, make_model
from stages import STAGE_1, STAGE_2, stage

from flashsloth.cli import main
from flashsloth.train.config import LoraSettings
from flashsloth.train.plan import describe, plan


def test_published_model_is_counted_without_being_allocated():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    planned = plan(stage(STAGE_2, per_device_train_batch_size=8), num_devices=8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # kB; the weights are 12.8 GB
    assert planned.total == 3_196_373_985
    assert planned.total - planned.trainable == 397_745_440  # the vision tower
    total, trained = planned.total, planned.trainable
    zero2 = planned.memory["zero2"]
    assert (zero2.parameters, zero2.gradients, zero2.optimizer) == (
        2 * total,
        2 * trained // 8 + 2 * 10**9,
        12 * trained // 8,
    )
    assert planned.memory["ddp"].optimizer == 8 * trained
    offload = planned.memory["zero3 offload"]
    assert (offload.parameters, offload.gradients, offload.optimizer) == (2 * 10**9, 2 * 10**9, 0)
    assert offload.in_main_memory == (2 * total + 16 * trained) // 8
    # More sharding never takes more, and a stage that trains less takes less.
    totals = [planned.memory[strategy].total for strategy in ("ddp", "zero2", "zero3", "zero3 offload")]
    assert totals == sorted(totals, reverse=True)
    first = plan(stage(STAGE_1, per_device_train_batch_size=8), num_devices=8)
    assert all(first.memory[strategy].total < planned.memory[strategy].total for strategy in planned.memory)


def test_counts_are_those_of_the_real_model(model):
    planned = plan(stage(STAGE_1), 1, make_config())
    parts = [model.model.pooling, model.model.multi_modal_projector]
    assert planned.trainable == sum(p.numel() for part in parts for p in part.parameters())
    assert planned.total == sum(p.numel() for p in model.parameters())


def test_adapter_is_counted_as_a_part(model):
    planned = plan(stage(lora=LoraSettings(r=4, modules_to_save=["model.pooling"])), 1, make_config())
    pooling = sum(p.numel() for p in model.model.pooling.parameters())
    # four projections and the first and second layer of the MLP, in each of three layers
    rank = 4 * 3 * (4 * (32 + 32) + 2 * (32 + 64))
    assert planned.parameters[-1] == ("adapter", rank + pooling, rank + pooling)
    assert planned.trainable == rank + pooling
    assert planned.total == sum(p.numel() for p in model.parameters()) + planned.trainable


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ({}, 13),
        ({"num_train_epochs": 2.5}, 33),
        ({"max_steps": 5}, 5),
        ({"gradient_accumulation_steps": 2}, 7),
        ({"dataloader_drop_last": True}, 12),
    ],
)
def test_steps(overrides, steps):
    planned = stage(STAGE_1, **{"per_device_train_batch_size": 4, "num_train_epochs": 1, **overrides})
    assert plan(planned, 2, make_config(), num_rows=100).num_steps == steps
    if "max_steps" not in overrides:
        assert plan(planned, 2, make_config()).num_steps is None


def test_what_cannot_be_planned():
    with pytest.raises(ValueError, match="not of optim: adafactor"):
        plan(stage(STAGE_1, optim="adafactor"), 1, make_config())


def test_command_prints_the_plan_and_trains_nothing(tmp_path, capsys):
    make_model().save_pretrained(tmp_path / "model")
    turns = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]
    rows = [json.dumps({"id": str(index), "images": [], "messages": turns}) for index in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "stage.yaml").write_text(
        f"model: {tmp_path / 'model'}\ndata: {tmp_path / 'rows.jsonl'}\noutput_dir: {tmp_path / 'out'}\n"
        "trainable: [model.pooling]\nper_device_train_batch_size: 2\nbf16: true\n"
    )
    command = ["train", str(tmp_path / "stage.yaml"), "--plan", "--devices", "2", "num_train_epochs=1"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "Steps: 3 over 10 rows" in output
    assert "2 devices x 2 rows x 1 accumulated = 4 rows" in output
    assert "12 GB for stage 1, 47 GB for stage 2" in output
    assert not (tmp_path / "out").exists()
    assert main([*command, "model=not/here", "data=nor/this.jsonl"]) == 0
    output = capsys.readouterr().out
    assert "published FlashSloth-3.2B (not/here is not here)" in output
    assert "Steps: unknown" in output


def test_plan_for_what_is_no_flashsloth(tmp_path):
    make_model().model.language_model.save_pretrained(tmp_path / "phi")
    with pytest.raises(ValueError, match="is a model of type 'phi', not a FlashSloth"):
        describe(stage(STAGE_1, model=str(tmp_path / "phi")), 1)


def test_devices_without_plan(tmp_path, capsys):
    assert main(["train", str(tmp_path / "stage.yaml"), "--devices", "2"]) == 2
    assert "--devices belongs to --plan" in capsys.readouterr().err


def test_what_a_run_would_refuse_is_refused():
    with pytest.raises(ValueError, match="learning_rates names 'model.poling'.* 'model.pooling'"):
        plan(stage(STAGE_1, learning_rates={"model.poling": 1e-3}), 1, make_config())
