# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Bounds on what a config says, before a library reads it."""

import json

import pytest
from model_folders import DEEP, error_of

from flashsloth.folders.config_file import check_depth, read_config_file


def test_fields_are_read_as_they_are(tmp_path):
    fields = {"model_type": "phi", "num_hidden_layers": 100_000, "text_config": {"num_labels": 2}, "other": None}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert read_config_file(tmp_path / "config.json") == fields


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold a JSON object, but holds list"),
        ('{"a":' * DEEP, "is not valid JSON"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        ('{"num_labels": 1000000000000}', "has num_labels 1000000000000; no model has more than 100000"),
        ('{"vision_config": {"num_hidden_layers": 100001}}', "has num_hidden_layers 100001; no model has more"),
        (None, "does not exist"),
    ],
)
def test_what_is_refused(content, message, tmp_path):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert f"{file} {message}" in error_of(read_config_file, file)


def test_layers_are_those_of_the_weights():
    names = [f"model.layers.{index}.mlp.weight" for index in range(3)] + ["model.layersnorm.9.weight", "head.weight"]
    check_depth({"num_hidden_layers": 3}, names, "model.layers.", "config.json")
    check_depth({"num_hidden_layers": 2}, names, "model.layers.", "config.json")
    message = error_of(check_depth, {"num_hidden_layers": 4}, names, "model.layers.", "config.json")
    assert message == "config.json has num_hidden_layers 4, but the weights beside it hold 3 layers."
