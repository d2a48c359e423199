# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The vision tower of a published checkpoint: whole ones, and others than so400m."""

import json

import golden_checkpoint
import pytest
import torch
from model_folders import read_json, set_config
from transformers import SiglipVisionConfig

from flashsloth.convert import convert_checkpoint
from flashsloth.convert.names import PUBLISHED_TOWER
from flashsloth.convert.published_tower import infer_image_size


def test_whole_vision_tower_is_cut(source, weights, converted, tmp_path, caplog):
    tensors = dict(weights)
    for name, tensor in weights.items():
        if f"{PUBLISHED_TOWER}encoder.layers.1." in name:
            tensors[name.replace("layers.1.", "layers.2.")] = tensor.clone()
    tensors[f"{PUBLISHED_TOWER}post_layernorm.weight"] = torch.ones(1152)
    tensors[f"{PUBLISHED_TOWER}head.probe"] = torch.ones(1, 1, 1152)
    golden_checkpoint.write(tmp_path / "source", tensors)
    ours = convert_checkpoint(tmp_path / "source", tmp_path / "ours")
    assert "whole vision tower" in caplog.text
    assert (ours / "model.safetensors").stat().st_size == (converted / "model.safetensors").stat().st_size


def narrow_tower(weights) -> dict[str, torch.Tensor]:
    """The golden weights with a vision width of 64."""
    return {
        name: tensor[tuple(slice(64) if size == 1152 else slice(None) for size in tensor.shape)].clone()
        for name, tensor in weights.items()
    }


def test_other_tower_needs_its_config(source, weights, tmp_path):
    golden_checkpoint.write(tmp_path / "source", narrow_tower(weights))
    set_config(tmp_path / "source", mm_hidden_size=64)
    with pytest.raises(ValueError, match="64 wide.*--vision-config"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours")
    siglip = SiglipVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, image_size=384, patch_size=14
    )
    for name, content in (
        ("vision.json", siglip.to_dict()),
        ("whole.json", {"model_type": "siglip", "vision_config": siglip.to_dict()}),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        ours = convert_checkpoint(tmp_path / "source", tmp_path / f"ours {name}", vision_config=tmp_path / name)
        vision = read_json(ours / "config.json")["vision_config"]
        assert (vision["num_attention_heads"], vision["num_hidden_layers"], vision["image_size"]) == (2, 2, 384)
    (tmp_path / "clip.json").write_text('{"model_type": "clip_vision_model", "num_attention_heads": 2}')
    with pytest.raises(ValueError, match="clip.json is a config of 'clip_vision_model'"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours", vision_config=tmp_path / "clip.json")


def test_a_tensor_that_shows_a_size_is_missing(weights, tmp_path):
    tensors = {name: tensor for name, tensor in weights.items() if name != "model.learnable_tokens.token"}
    golden_checkpoint.write(tmp_path / "source", tensors)
    with pytest.raises(ValueError, match="missing.*model.learnable_tokens.token"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours")


def test_image_size_is_that_of_the_towers_name():
    assert infer_image_size({"mm_vision_tower": "google/siglip-so400m-patch14-384/"}, 27 * 27, 14) == 384
    assert infer_image_size({}, 27 * 27, 14) == 27 * 14
    for fields, num_patches in (({}, 28), ({"mm_vision_tower": "siglip-patch14-224"}, 27 * 27)):
        with pytest.raises(ValueError, match="is not the square of .* Pass the SigLIP model's config.json"):
            infer_image_size(fields, num_patches, 14)
