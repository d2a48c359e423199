# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The model that a stage starts from, and what of it is trained."""

import shutil

import pytest
import torch
from model_folders import set_config
from safetensors.torch import load_file, save_file
from samples import make_config, make_model
from stages import run, stage

from flashsloth.train.config import LoraSettings
from flashsloth.train.model import learned_parameters, load_stage_model, parameter_groups, select_trainable


def test_unsuitable_checkpoints(start, tmp_path):
    make_model().model.language_model.save_pretrained(tmp_path / "phi")
    with pytest.raises(ValueError, match="is a model of type 'phi', not a FlashSloth.* compose"):
        run("stage2", start, tmp_path, f"model={tmp_path / 'phi'}")
    make_model().save_pretrained(tmp_path / "holes")
    weights = load_file(tmp_path / "holes" / "model.safetensors")
    del weights["model.pooling.fc1.weight"]
    save_file(weights, tmp_path / "holes" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing: model.pooling.fc1.weight\)"):
        run("stage2", start, tmp_path, f"model={tmp_path / 'holes'}")
    content = (start / "model" / "model.safetensors").read_bytes()
    for name, weights in (("cut", content[:1000]), ("empty", b""), ("gone", None)):
        shutil.copytree(start / "model", tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
        if weights is not None:
            (tmp_path / name / "model.safetensors").write_bytes(weights)
        with pytest.raises(ValueError, match=f"(No weights in .*{name}|{name}/model.safetensors is damaged)"):
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


def test_a_model_of_any_dtype_is_trained_in_float32(tmp_path):
    saved = make_model().to(torch.bfloat16)
    saved.save_pretrained(tmp_path)
    model = load_stage_model(stage(["lm_head"], model=str(tmp_path)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.lm_head.weight, saved.lm_head.weight.float())
    assert model.name_or_path == str(tmp_path)


def test_a_quantized_model_is_refused_before_its_weights_are_read(tmp_path):
    make_model().save_pretrained(tmp_path)
    set_config(tmp_path, quantization_config={"quant_method": "torchao"})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is quantized and cannot be trained: start from the model that it was made"):
        load_stage_model(stage(["lm_head"], model=str(tmp_path)))


def test_learned_parameters_are_the_trained_ones_or_those_of_the_adapters_modules(model):
    select_trainable(model, ["model.pooling", "lm_head"])
    names = [name for name, _ in learned_parameters(model, stage(["model.pooling", "lm_head"]))]
    assert names == [name for name, _ in model.named_parameters() if name.startswith(("model.pooling.", "lm_head."))]
    lora = LoraSettings(["model.vision_tower"], modules_to_save=["model.query_tokens"])
    parts = {name.split(".")[1] for name, _ in learned_parameters(model, stage(lora=lora))}
    assert parts == {"vision_tower", "query_tokens"}


def test_a_tied_head_trains_by_the_name_of_the_embeddings():
    model = make_model(make_config(tie_word_embeddings=True))
    select_trainable(model, ["lm_head"])
    names = {name for name, _ in learned_parameters(model, stage(["lm_head"]))}
    assert names == {"model.language_model.embed_tokens.weight", "lm_head.bias"}
