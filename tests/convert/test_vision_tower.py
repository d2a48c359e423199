# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A SigLIP as the vision tower: the fields of its config, and which of its tensors are used."""

import json

import pytest
from model_folders import error_of
from safetensors import safe_open

from flashsloth.convert.vision_tower import ORIGIN_FIELDS, is_unused, is_whole, num_layers, read_vision_fields


TOWER = "vision_model."  # how the names of a SigLIP's tower begin


@pytest.fixture
def file(tmp_path):
    """A name for a config.json, which does not exist."""
    return tmp_path / "config.json"


@pytest.fixture
def names(backbone_folders) -> list[str]:
    """The names of the tensors of a SigLIP whose tower has three layers."""
    with safe_open(backbone_folders["vision"] / "model.safetensors", "pt") as weights:
        return list(weights.keys())


def test_fields_are_those_of_the_vision_half_without_their_origin(backbone_folders, file):
    whole = json.loads((backbone_folders["vision"] / "config.json").read_text())
    half = whole["vision_config"] | {"architectures": ["SiglipVisionModel"], "torch_dtype": "float16"}
    file.write_text(json.dumps(half))
    fields = read_vision_fields(file)
    assert fields == read_vision_fields(backbone_folders["vision"] / "config.json")
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 49, "patch_size": 8}
    assert {name: fields[name] for name in sizes} == sizes
    assert not fields.keys() & set(ORIGIN_FIELDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"vision_config": [1]}, "has a vision_config that is a list, not an object"),
        ({"model_type": "phi", "image_size": 24, "num_attention_heads": 2}, "is a config of 'phi', not of a SigLIP"),
        (
            {"vision_config": {"model_type": "clip_vision_model"}},
            "is a config of 'clip_vision_model', not of a SigLIP",
        ),
        ({"image_size": 24}, "lacks num_attention_heads. Pass the config.json of the SigLIP model."),
        ({"vision_config": {}}, "lacks num_attention_heads, image_size."),
        ([], "must hold a JSON object"),
        ({"num_hidden_layers": 10**9}, "has num_hidden_layers 1000000000; no model has more than 100000"),
    ],
)
def test_configs_of_other_models_are_refused(content, message, file):
    file.write_text(json.dumps(content))
    assert f"{file} {message}" in error_of(read_vision_fields, file)


def test_a_whole_tower_and_one_that_was_cut(names):
    assert is_whole(names, TOWER) and num_layers(names, TOWER) == 3
    cut = [name for name in names if not is_unused(name, 2, TOWER)]
    assert not is_whole(cut, TOWER) and num_layers(cut, TOWER) == 2
    assert num_layers([], TOWER) == 0 == num_layers(names)  # without the prefix no name is one of the tower


def test_what_comes_after_the_used_layer_is_unused(names):
    unused = {name for name in names if is_unused(name, 2, TOWER)}
    after = tuple(f"{TOWER}{part}" for part in ("encoder.layers.2.", "post_layernorm.", "head."))
    assert unused == {name for name in names if name.startswith(after)}
    assert len({name.removeprefix(TOWER).split(".")[0] for name in unused}) == 3
    # Layers are compared as numbers, and tensors of the text half do not belong to the tower.
    assert is_unused("encoder.layers.10.mlp.fc1.weight", 9) and not is_unused("encoder.layers.10.mlp.fc1.weight", 11)
    assert not is_unused("text_model.head.weight", 2, TOWER)
