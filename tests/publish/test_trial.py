# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The trial of a folder. A trial that succeeds, in its own process, is part of the whole command in test_hub.py."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import encode_image, make_image

from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.publish.card import SHIPPED_EXAMPLE
from flashsloth.publish.trial import Trial, _environment, try_folder


EXAMPLE = ("What is this?", encode_image(make_image()))


@pytest.fixture
def image(tmp_path) -> Path:
    (tmp_path / "image.png").write_bytes(EXAMPLE[1])
    return tmp_path / "image.png"


def test_the_answer_is_the_models_own(image):
    """Short, without special tokens and space around it."""
    image.write_bytes(SHIPPED_EXAMPLE.image)
    trial = Trial(str(SHIPPED_CHECKPOINT), SHIPPED_EXAMPLE.question, image)
    assert trial.run() == "pink"


@pytest.mark.parametrize("end", [0, [0, 1], None])
def test_a_long_answer_says_that_it_goes_on(folder, image, end):
    """Of random weights, which never end it."""
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"eos_token_id": end, "suppress_tokens": [0, 1]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert Trial(str(folder), "What?", image).run().endswith("...")


def test_code_that_needs_the_package_fails(folder):
    """In a new process: in this one transformers prefers the package's classes to the folder's code."""
    (folder / "processing_flashsloth.py").write_text("import flashsloth\n")
    with pytest.raises(ValueError, match="loading with AutoProcessor failed: ImportError: .*flashsloth") as raised:
        try_folder(folder, *EXAMPLE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        pytest.param(
            """echo '{"step": "loading with AutoProcessor", "error": "ImportError: no x"}' > $4/result.json""",
            "does not work without this package: loading with AutoProcessor failed: ImportError: no x",
            id="a step fails",
        ),
        pytest.param("kill -9 $$", "ended with signal 9; is there enough memory", id="killed"),
        pytest.param("exit 3", "ended with status 3", id="no result"),
    ],
)
def test_what_went_wrong_in_the_process_is_reported(tmp_path, monkeypatch, program, says):
    """A stand-in for Python, which gets `-P trial.py FOLDER HOME`."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ValueError, match=says):
        try_folder(tmp_path, *EXAMPLE)


def test_weights_of_another_config_fail(folder, image):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    trial = Trial(str(folder), "What?", image)
    says = r"do not fit the config: \d+ missing_keys, such as model.language_model.layers.3"
    with pytest.raises(ValueError, match=says):
        trial.run()
    assert trial.step == "loading with AutoModelForImageTextToText"


def test_weights_that_are_not_numbers_fail(folder, image):
    for path in folder.glob("model-*"):
        tensors = load_file(path)
        save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, path, {"format": "pt"})
    trial = Trial(str(folder), "What?", image)
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
