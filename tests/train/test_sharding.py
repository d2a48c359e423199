# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Stages that cannot be trained sharded, and models whose class FSDP2 has changed."""

import json

import pytest
import torch
from samples import make_model
from stages import settings, stage
from torch import nn
from torch.distributed.fsdp import FSDPModule

from flashsloth import FlashSlothForCausalLM
from flashsloth.train import sharding as sharding_module
from flashsloth.train.model import parameter_groups
from flashsloth.train.sft import train_stage
from flashsloth.train.sharding import check_sharding, gather_head_before_loss, unsharded_class


@pytest.mark.parametrize("sharding", ["FSDP", "DeepSpeed"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer=muon"], "optimizer muon does not work on parameters that {} shards: take adamw, or"),
        (
            ["trainable=[]", "lora={r: 2}", "quantization=nf4"],
            "quantization nf4 does not work on parameters that {} shards",
        ),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_anything_is_loaded(
    start, tmp_path, monkeypatch, sharding, overrides, message
):
    stage = settings("stage2", start, tmp_path, f"model={tmp_path / 'nothing'}", *overrides)
    monkeypatch.setenv(f"ACCELERATE_USE_{sharding.upper()}", "true")
    with pytest.raises(ValueError, match=message.format(sharding)):
        train_stage(stage)


def test_muon_is_refused_where_the_settings_shard_and_allowed_where_nothing_does():
    sharded = {"fsdp": "full_shard", "fsdp_config": {"version": 2}}
    check_sharding(stage(["lm_head"], optimizer="muon"))
    check_sharding(stage(["lm_head"], **sharded))
    with pytest.raises(ValueError, match="optimizer muon does not work on parameters that FSDP shards: .* torchrun"):
        check_sharding(stage(["lm_head"], optimizer="muon", **sharded))


class ShardedModel(FSDPModule, FlashSlothForCausalLM):
    """What FSDP2 makes of our class."""


def test_a_sharded_model_is_saved_under_its_own_name(model, tmp_path):
    model.save_pretrained(tmp_path / "plain")
    model.__class__ = ShardedModel
    with unsharded_class(model):
        model.save_pretrained(tmp_path / "sharded", state_dict=model.state_dict())
    assert type(model) is ShardedModel
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "sharded")]
    assert configs[0] == configs[1]
    assert (tmp_path / "sharded" / "modeling_flashsloth.py").is_file()


def test_the_class_comes_back_after_an_error_too(model):
    model.__class__ = ShardedModel
    with pytest.raises(OSError, match="disk"), unsharded_class(model):
        raise OSError("no room on the disk")
    assert type(model) is ShardedModel


class ShardedHead(FSDPModule, nn.Linear):
    """A head that counts how often it is gathered."""

    gathered = 0

    def unshard(self, async_op=False):
        self.gathered += 1


def test_the_head_is_gathered_before_a_loss_that_does_not_call_it(model):
    gather_head_before_loss(model)
    input_ids = torch.arange(8)[None]
    expected = model.model(input_ids=input_ids).last_hidden_state  # nothing is sharded, nothing is gathered
    model.lm_head.__class__ = ShardedHead
    hidden = model.model(input_ids=input_ids).last_hidden_state
    assert model.lm_head.gathered == 1
    assert torch.equal(hidden, expected)


def test_parameters_that_zero3_took_away_are_counted(monkeypatch):
    """ZeRO-3 leaves an empty placeholder, with the number of elements beside it."""
    model = make_model()
    expected = parameter_groups(model)
    for parameter in model.parameters():
        parameter.ds_numel, parameter.data = parameter.numel(), torch.empty(0)
    monkeypatch.setattr(sharding_module, "is_deepspeed_zero3_enabled", lambda: True)
    assert parameter_groups(model) == expected
