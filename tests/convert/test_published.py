# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Published checkpoints to our layout and back."""

import json
import shutil

import golden_checkpoint
import pytest
import torch
from model_folders import read_json, set_config, with_config
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from flashsloth import (
    FlashSlothForCausalLM,
    FlashSlothImageProcessor,
    FlashSlothProcessor,
    cli,
    register_auto_classes,
)
from flashsloth.convert import convert_checkpoint, to_original
from flashsloth.convert.names import PUBLISHED, rename
from flashsloth.folders.tensors import Checkpoint


SOURCE_REMEDY = "Download the checkpoint again"


def test_round_trip_is_bit_for_bit(source, converted, weights, tmp_path):
    back = to_original(converted, tmp_path / "back")
    returned = Checkpoint(back)
    assert set(returned) == set(weights)
    for name, expected in weights.items():
        assert returned[name].dtype == expected.dtype
        assert torch.equal(returned[name].read(), expected), name
    assert read_json(back / "config.json") == read_json(source / "config.json")
    tokenizer = AutoTokenizer.from_pretrained(back)
    assert len(tokenizer) == 50298
    assert tokenizer.convert_tokens_to_ids(["<learnable>", "</s>", "<image>"]) == [50295, 50296, 50297]
    again = convert_checkpoint(back, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()
    assert read_json(again / "tokenizer.json") == read_json(converted / "tokenizer.json")


def test_round_trip_after_training(converted, tmp_path):
    """What save_pretrained writes goes back too."""
    register_auto_classes()
    model = FlashSlothForCausalLM.from_pretrained(converted)
    with torch.no_grad():
        model.lm_head.bias += 1
    model.save_pretrained(tmp_path / "tuned")
    processor = FlashSlothProcessor.from_pretrained(converted)
    processor.image_processor.hd = True
    processor.save_pretrained(tmp_path / "tuned")
    back = Checkpoint(to_original(tmp_path / "tuned", tmp_path / "back"))
    assert torch.equal(back["lm_head.bias"].read(), model.lm_head.bias)
    assert read_json(tmp_path / "back" / "config.json") == {**golden_checkpoint.read("config.json"), "image_hd": True}


@pytest.mark.parametrize("layout", ["sharded", "bin", "sharded bin"])
def test_layouts_of_the_source(layout, weights, converted, tmp_path):
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    golden_checkpoint.write(tmp_path / "source", halved, layout, with_tokenizer=False)
    set_config(tmp_path / "source", image_hd=True)
    convert_checkpoint(tmp_path / "source", tmp_path / "ours", tokenizer=golden_checkpoint.TOKENIZER)
    found = Checkpoint(tmp_path / "ours")
    assert set(found) == set(Checkpoint(converted))
    for name, tensor in halved.items():
        assert torch.equal(found[rename(name, PUBLISHED)].read(), tensor), name
    assert read_json(tmp_path / "ours" / "config.json")["dtype"] == "bfloat16"
    assert FlashSlothImageProcessor.from_pretrained(tmp_path / "ours").hd


def test_hub_ids_come_from_the_cache(source, converted, tmp_path, monkeypatch):
    """The Hub itself is switched off (conftest)."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    revision = "0123456789abcdef0123456789abcdef01234567"
    for name, folder in (("Tongbo--FlashSloth-3.2B", source), ("microsoft--phi-2", golden_checkpoint.TOKENIZER)):
        snapshots = tmp_path / "cache" / f"models--{name}" / "snapshots"
        snapshots.mkdir(parents=True)
        (snapshots / revision).symlink_to(folder)
    names = [f"Tongbo/FlashSloth-3.2B@{revision}", str(tmp_path / "ours")]
    assert cli.main(["convert", *names, "--tokenizer", f"microsoft/phi-2@{revision}"]) == 0
    assert Checkpoint(tmp_path / "ours").keys() == Checkpoint(converted).keys()
    (entry,) = json.loads((tmp_path / "ours" / "provenance.json").read_text())
    assert entry["sources"] == [{"role": "checkpoint", "repo": "Tongbo/FlashSloth-3.2B", "revision": revision}]


def test_shards_of_the_result(source, weights, tmp_path):
    folder = convert_checkpoint(source, tmp_path / "ours", max_shard_size="15MB")
    index = read_json(folder / "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values()))
    assert (
        files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))] and len(files) > 5
    )
    assert not (folder / "model.safetensors").exists()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    loaded, info = FlashSlothForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(loaded.lm_head.weight, weights["lm_head.weight"])


def test_folder_is_complete(converted):
    names = {file.name for file in converted.iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "configuration_flashsloth.py",
        "embedded_query_flashsloth.py",
        "generation_config.json",
        "image_processing_flashsloth.py",
        "image_reading_flashsloth.py",
        "model.safetensors",
        "modeling_flashsloth.py",
        "processing_flashsloth.py",
        "processor_config.json",
        "provenance.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    generation = read_json(converted / "generation_config.json")
    assert generation["eos_token_id"] == 50296 and generation["do_sample"] is False
    assert generation["suppress_tokens"] == [50295, *range(50297, 50308)]
    tokens = ["<learnable>", "</s>", "<image>", "<pad>", *[f"<query_{i}>" for i in range(9)]]
    processor = FlashSlothProcessor.from_pretrained(converted)
    assert processor.tokenizer.convert_tokens_to_ids(tokens) == list(range(50295, 50308))
    assert processor.tokenizer.padding_side == "left"


@pytest.mark.parametrize("kind", ["missing", "unexpected", "wrongly shaped"])
def test_tensors_that_do_not_fit_are_listed(kind, weights, tmp_path):
    tensors = dict(weights)
    if kind == "missing":
        names = ["lm_head.bias", "model.lqformer.layers.0.ln_q.weight"]
        for name in names:
            del tensors[name]
    elif kind == "unexpected":
        names = ["model.layers.0.self_attn.extra", "something"]
        tensors.update({name: torch.zeros(1) for name in names})
    else:
        names = [
            "model.mm_projector.0.weight: [65, 1152] instead of [64, 1152]",
            "lm_head.bias: [7] instead of [51200]",
        ]
        tensors["model.mm_projector.0.weight"] = torch.zeros(65, 1152)
        tensors["lm_head.bias"] = torch.zeros(7)
    golden_checkpoint.write(tmp_path / "source", tensors)
    with pytest.raises(ValueError) as error:
        convert_checkpoint(tmp_path / "source", tmp_path / "ours")
    assert "\n" not in str(error.value)
    assert f"2 {kind}: " in str(error.value) and str(tmp_path / "source") in str(error.value)
    assert all(name in str(error.value) for name in names)
    assert SOURCE_REMEDY in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_back_conversion_lists_tensors_too(converted, tmp_path):
    shutil.copytree(converted, tmp_path / "ours")
    tensors = load_file(converted / "model.safetensors")
    del tensors["model.pooling.fc2.bias"]
    save_file(tensors, tmp_path / "ours" / "model.safetensors")
    with pytest.raises(ValueError, match="1 missing: model.pooling.fc2.bias"):
        to_original(tmp_path / "ours", tmp_path / "back")
    with pytest.raises(ValueError, match="is a model of type 'phi', not a FlashSloth"):
        to_original(with_config(converted, tmp_path / "phi", model_type="phi"), tmp_path / "back")
    with pytest.raises(ValueError, match="no form in the published layout: query_layer 6 instead of 7"):
        to_original(with_config(converted, tmp_path / "variant", query_layer=6), tmp_path / "back")


def test_source_errors(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="No model folder at '.*nowhere'; give a folder or a Hub id"):
        convert_checkpoint(tmp_path / "nowhere", tmp_path / "ours")
    broken = with_config(source, tmp_path / "broken")
    (broken / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        convert_checkpoint(broken, tmp_path / "ours")
    shutil.copytree(source, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match="No weights in .*empty"):
        convert_checkpoint(tmp_path / "empty", tmp_path / "ours")


def test_destination_must_be_new(source, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for convert in (convert_checkpoint, to_original):
        with pytest.raises(ValueError, match="full is not empty"):
            convert(source, tmp_path / "full")
        with pytest.raises(ValueError, match="file is a file"):
            convert(source, tmp_path / "full" / "file")
    (tmp_path / "empty").mkdir()
    assert (convert_checkpoint(source, tmp_path / "empty") / "config.json").is_file()


def test_failure_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flashsloth.folders.tensors._write_safetensors", fail)
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(source, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []
