# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The trial of a folder. A trial that succeeds, in its own process, is part of the whole command in test_hub.py."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashsloth.publish.trial import Trial, _environment, try_folder


def test_code_that_needs_the_package_fails(folder):
    """In the process of the trial, where the package does not exist."""
    (folder / "processing_flashsloth.py").write_text("import flashsloth\n")
    with pytest.raises(ValueError, match="loading with AutoProcessor failed: ImportError: .*flashsloth") as raised:
        try_folder(folder)
    assert "\n" not in str(raised.value)


def test_weights_of_another_config_fail(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    trial = Trial(str(folder))
    says = r"do not fit the config: \d+ missing_keys, such as model.language_model.layers.3"
    with pytest.raises(ValueError, match=says):
        trial.run()
    assert trial.step == "loading with AutoModelForImageTextToText"


def test_weights_that_are_not_numbers_fail(folder):
    for path in folder.glob("model-*"):
        tensors = load_file(path)
        save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, path, {"format": "pt"})
    trial = Trial(str(folder))
    with pytest.raises(ValueError, match="the logits are not finite numbers"):
        trial.run()
    assert trial.step == "answering a question about an image"


def test_its_process_has_neither_token_nor_settings(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hf_secret")
    monkeypatch.setenv("HF_MODULES_CACHE", "/somewhere")
    given = _environment(str(tmp_path))
    assert "hf_secret" not in given.values() and "HF_MODULES_CACHE" not in given
    assert given["HF_HOME"] == str(tmp_path) and given["HF_HUB_OFFLINE"] == "1" and "PATH" in given
