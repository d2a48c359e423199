# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The model that a stage starts from, and what of it is trained."""

import shutil

import pytest
from safetensors.torch import load_file, save_file
from samples import make_model
from stages import run

from flashsloth.train.model import parameter_groups, select_trainable


def test_unsuitable_checkpoints(start, tmp_path):
    make_model().model.language_model.save_pretrained(tmp_path / "phi")
    with pytest.raises(ValueError, match="is a model of type 'phi', not a FlashSloth.* compose"):
        run("stage2", start, tmp_path, f"model={tmp_path / 'phi'}")
    make_model().save_pretrained(tmp_path / "holes")
    weights = load_file(tmp_path / "holes" / "model.safetensors")
    del weights["model.pooling.fc1.weight"]
    save_file(weights, tmp_path / "holes" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 tensors, model.pooling.fc1.weight among them"):
        run("stage2", start, tmp_path, f"model={tmp_path / 'holes'}")
    content = (start / "model" / "model.safetensors").read_bytes()
    for name, weights in (("cut", content[:1000]), ("empty", b""), ("gone", None)):
        shutil.copytree(start / "model", tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
        if weights is not None:
            (tmp_path / name / "model.safetensors").write_bytes(weights)
        with pytest.raises(ValueError, match=f"The model .*{name} cannot be loaded"):
            run("stage2", start, tmp_path, f"model={tmp_path / name}")


def test_unknown_module_names_the_closest(model):
    with pytest.raises(ValueError, match="no such module; the closest is 'model.pooling'"):
        select_trainable(model, ["model.poolin"])


def test_parameter_groups_count_what_trains(model):
    select_trainable(model, ["model.pooling"])
    groups = {part: (trainable, total) for part, trainable, total in parameter_groups(model)}
    assert groups["model.pooling"][0] == groups["model.pooling"][1] > 0
    assert groups["lm_head"][0] == 0 < groups["lm_head"][1]
    assert sum(total for _, total in groups.values()) == sum(p.numel() for p in model.parameters())
