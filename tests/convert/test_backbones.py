# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Backbones that are damaged, hostile or of the wrong kind: each is one clear error, and nothing is left behind."""

import json
import shutil

import pytest
from backbones import OPTIONS
from model_folders import DEEP, error_of

from flashsloth.convert import compose


@pytest.fixture
def refused(backbone_folders, tmp_path):
    """A function that composes with one file of a backbone replaced, and returns the error."""

    def attempt(part: str, file: str, content: str | bytes | None) -> str:
        folder = tmp_path / part
        shutil.copytree(backbone_folders[part], folder)
        (folder / file).unlink(missing_ok=True)
        if content is not None:
            (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        folders = {**backbone_folders, part: folder}
        message = error_of(compose, folders["language"], folders["vision"], tmp_path / "new", **OPTIONS)
        assert [left.name for left in tmp_path.iterdir()] == [part]
        assert str(folder) in message
        return message

    return attempt


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "config.json must hold a JSON object, but holds list"),
        ("{}", "has model_type None, which transformers does not know"),
        ('{"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0"}', "has model_type None"),
        ('{"model_type": "phi-msft", "auto_map": {"AutoConfig": "evil.Config"}}', "has model_type 'phi-msft'"),
        ('{"model_type": ["phi"]}', "has model_type ['phi']"),
        ('{"model_type": "siglip"}', "is a 'siglip' model of several parts"),
        ('{"a":' * DEEP, "config.json is not valid JSON"),
        ('{"model_type": "phi", "vocab_size": ' + "9" * 5000 + "}", "config.json is not valid JSON"),
        (b"\xff\xfe", "config.json is not valid JSON"),
        (None, "config.json does not exist"),
    ],
)
def test_language_models_of_the_wrong_kind(content, message, refused):
    assert message in refused("language", "config.json", content)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("language", "num_hidden_layers", 10**9, "has num_hidden_layers 1000000000; no model has more than 100000"),
        ("language", "num_hidden_layers", 4, "num_hidden_layers 4, but the weights beside it hold 3"),
        ("language", "num_labels", 10**12, "has num_labels 1000000000000; no model has more than 100000"),
        ("language", "hidden_size", 10**9, "wrongly shaped"),
        ("language", "hidden_size", 10**18, "does not describe a model that can be built"),
        ("language", "hidden_size", 10**30, "does not describe a model that can be built"),
        ("language", "hidden_size", "32", "hidden_size"),
        ("language", "intermediate_size", -1, "does not describe a model that can be built"),
        ("language", "vocab_size", 10**9, "wrongly shaped"),
        ("language", "vocab_size", 0, "has a size below 1"),
        ("language", "num_attention_heads", 0, "has a size below 1"),
        ("language", "num_key_value_heads", 0, "does not describe a model that can be built"),
        ("language", "hidden_act", "nonsense", "an activation that transformers does not know"),
        ("language", "quantization_config", {"quant_method": "gptq"}, "holds quantized weights"),
        ("vision", "num_hidden_layers", 10**9, "has num_hidden_layers 1000000000; no model has more than 100000"),
        ("vision", "num_hidden_layers", 5, "num_hidden_layers 5, but the weights beside it hold 3"),
        ("vision", "hidden_size", 10**18, "does not describe a model that can be built"),
        ("vision", "image_size", 24_000, "wrongly shaped"),
        ("vision", "image_size", 24 * 10**8, "does not describe a model that can be built"),
        ("vision", "image_size", "49", "image_size"),
        ("vision", "patch_size", 0, "patch_size=0 must be 1 to image_size=49"),
        ("vision", "model_type", "clip_vision_model", "is a config of 'clip_vision_model'"),
    ],
)
def test_sizes_are_believed_only_if_the_weights_have_them(part, field, value, message, backbone_folders, refused):
    config = json.loads((backbone_folders[part] / "config.json").read_text())
    (config["vision_config"] if part == "vision" else config)[field] = value
    assert message in refused(part, "config.json", json.dumps(config))


def test_a_vision_config_that_is_no_object(refused):
    assert "has a vision_config that is a list" in refused("vision", "config.json", '{"vision_config": [1]}')
