# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Weights that no backbone has: their distributions are the published ones, and a seed fixes them."""

import math

import pytest
import torch
from backbones import OPTIONS
from safetensors.torch import load_file
from samples import make_config

from flashsloth.convert import compose
from flashsloth.convert.new_weights import grow_vocabulary, new_tensors
from flashsloth.folders.tensors import LazyTensor


def test_new_parameters_are_as_published_and_seeded(backbone_folders, tmp_path):
    first, second, other = (
        load_file(compose(*backbone_folders.values(), tmp_path / name, seed=seed, **OPTIONS) / "model.safetensors")
        for name, seed in (("first", 3), ("second", 3), ("other", 4))
    )
    backbone = ("model.vision_tower.", "model.language_model.layers.")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        is_random = name.endswith("weight") and "norm" not in name and not name.startswith(backbone)
        assert torch.equal(tensor, other[name]) != is_random, name
    query_tokens = first["model.query_tokens.weight"].float()
    bound = 1 / math.sqrt(32)  # Kaiming-uniform with a = sqrt 5
    assert 0.9 * bound < query_tokens.abs().max() <= bound * 1.01
    assert first["model.embedded_query.up_proj.weight"].float().std() == pytest.approx(0.02, rel=0.1)
    assert not first["model.multi_modal_projector.linear_1.bias"].any()
    assert (first["model.embedded_query.query_norm.weight"] == 1).all()


def lazy(tensor: torch.Tensor) -> LazyTensor:
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_only_what_is_not_there_is_made():
    present = {"lm_head.weight": lazy(torch.ones(2, 2))}
    shapes = {"lm_head.weight": (2, 2), "model.pooling.fc1.weight": (300, 200), "model.pooling.fc1.bias": (300,)}
    made = new_tensors(shapes, present, std=0.1, generator=seeded())
    assert {name: tensor.shape for name, tensor in made.items()} == {
        name: shape for name, shape in shapes.items() if name != "lm_head.weight"
    }
    weight = made["model.pooling.fc1.weight"].read()
    assert weight.std().item() == pytest.approx(0.1, rel=0.02) and abs(weight.mean().item()) < 0.002
    assert torch.equal(made["model.pooling.fc1.weight"].read(), weight)  # read twice, made once


def test_the_vocabulary_grows_behind_the_rows_of_the_backbone():
    text_config = make_config(text_config={"vocab_size": 320, "initializer_range": 0.05}).text_config
    old = {
        "model.language_model.embed_tokens.weight": torch.ones(261, 32, dtype=torch.bfloat16),
        "lm_head.weight": torch.ones(261, 32, dtype=torch.bfloat16),
        "lm_head.bias": torch.ones(261, dtype=torch.bfloat16),
        "model.language_model.final_layernorm.weight": torch.ones(32),
    }
    grown = []
    for seed in (0, 0, 1):
        tensors = {name: lazy(tensor) for name, tensor in old.items()}
        grow_vocabulary(tensors, 261, text_config, seeded(seed))
        assert all(tensor.shape == tuple(tensor.read().shape) for tensor in tensors.values())
        grown.append({name: tensor.read() for name, tensor in tensors.items()})
    first, again, other = grown
    for name, tensor in old.items():
        assert first[name].dtype == tensor.dtype and torch.equal(first[name][: len(tensor)], tensor)
        assert torch.equal(first[name], again[name])
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        assert first[name].shape == (320, 32)
        assert first[name][261:].float().std().item() == pytest.approx(0.05, rel=0.05)
        assert not torch.equal(first[name][261:], other[name][261:])
    assert first["lm_head.bias"].shape == (320,) and not first["lm_head.bias"][261:].any()
    assert first["model.language_model.final_layernorm.weight"].shape == (32,)


def test_a_tied_head_grows_with_the_embeddings_alone():
    tensors = {"model.language_model.embed_tokens.weight": lazy(torch.ones(261, 32))}
    grow_vocabulary(tensors, 261, make_config().text_config, seeded())
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "model.language_model.embed_tokens.weight": (320, 32)
    }
