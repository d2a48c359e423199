# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Stages that cannot be trained sharded, and models whose class FSDP2 has changed."""

import pytest
from stages import settings

from flashsloth.train.sft import train_stage


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
