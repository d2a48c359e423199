# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A complete model folder: what is read of one, and that a written one is what `save_pretrained` writes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from model_folders import error_of, set_config, with_config
from safetensors.torch import load_file, save_file
from samples import make_model

from flashsloth import FlashSlothForCausalLM
from flashsloth.folders.model_folder import (
    main_dtype,
    new_generation_config,
    read_model,
    write_model_folder,
)
from flashsloth.folders.tensors import Checkpoint


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory) -> Path:
    """A model as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_written_folder_is_a_saved_one(folder, processor, tmp_path):
    config, tensors = read_model(folder)
    write_model_folder(tmp_path, config, tensors, processor, new_generation_config(config))
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in folder.iterdir()}
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((folder / name).read_text()), name
    saved, written = (FlashSlothForCausalLM.from_pretrained(path) for path in (folder, tmp_path))
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, written.state_dict()[name]), name
    assert written.generation_config.suppress_tokens == config.placeholder_token_ids
    assert written.generation_config.do_sample is False


def test_reading_needs_no_memory_for_weights(folder):
    config, tensors = read_model(folder)
    assert config.model_type == "flashsloth" and main_dtype(tensors) == torch.float32
    assert isinstance(tensors, Checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "is a model of type 'llama', not a FlashSloth. `flashsloth convert` makes one"),
        ({"quantization_config": {"quant_method": "torchao"}}, "is quantized already. Name the model"),
        ({"query_layer": 9}, "config.json is contradictory: query_layer=9 is outside the decoder"),
        ({"query_hidden_size": "wide"}, "config.json is contradictory"),
        ({"num_query_tokens": 0}, "do not fit its config"),
    ],
    ids=str,
)
def test_configs_that_are_not_trusted(changes, message, folder, tmp_path):
    assert message in error_of(read_model, with_config(folder, tmp_path / "model", **changes))


def test_depth_is_compared_before_anything_is_built(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    fields = json.loads((folder / "config.json").read_text())["text_config"]
    set_config(tmp_path / "model", text_config={**fields, "num_hidden_layers": 100_000})
    assert "num_hidden_layers 100000, but the weights beside it hold" in error_of(read_model, tmp_path / "model")


def test_tensors_are_compared_both_ways(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.bias"]
    tensors["something"] = torch.zeros(1)
    tensors["model.query_tokens.weight"] = torch.zeros(7, 7)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    message = error_of(read_model, tmp_path / "model")
    assert "1 missing: lm_head.bias; 1 unexpected: something; 1 wrongly shaped: model.query_tokens.weight: [7, 7]" in (
        message
    )
