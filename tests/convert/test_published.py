# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Published checkpoints there and back, and the golden cases: what the published code computed (tests/data/golden).
"""

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import golden_checkpoint
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import make_tokenizer
from transformers import AutoTokenizer, SiglipVisionConfig

from flashsloth import (
    FlashSlothForCausalLM,
    FlashSlothImageProcessor,
    FlashSlothProcessor,
    cli,
    register_auto_classes,
)
from flashsloth.convert import add_special_tokens, convert_checkpoint, to_original
from flashsloth.convert.names import PUBLISHED, PUBLISHED_TOWER, backwards, rename
from flashsloth.folders.tensors import Checkpoint, LazyTensor, write_tensors


ACTIVATION_TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
GRADIENT_TOLERANCE = 1e-3
STORED_IMAGE, STORED_SLOT = -200, 50295  # one entry each in the stored input_ids

CASES = golden_checkpoint.read("cases.json")
SOURCE_REMEDY = "Download the checkpoint again"


@pytest.fixture(scope="module")
def weights():
    return golden_checkpoint.weights()


@pytest.fixture(scope="module")
def golden():
    return load_file(golden_checkpoint.GOLDEN / "tensors.safetensors")


@pytest.fixture(scope="module")
def source(weights, tmp_path_factory):
    """The golden checkpoint in the published layout."""
    folder = tmp_path_factory.mktemp("published") / "source"
    golden_checkpoint.write(folder, weights)
    return folder


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    """The golden checkpoint in our layout."""
    return convert_checkpoint(source, tmp_path_factory.mktemp("converted") / "golden")


@pytest.fixture(scope="module")
def model(converted):
    return FlashSlothForCausalLM.from_pretrained(converted).eval()


@pytest.fixture(scope="module")
def processor(converted):
    register_auto_classes()
    return FlashSlothProcessor.from_pretrained(converted)


def stored_form(input_ids: torch.Tensor, config, num_views: int) -> list[int]:
    """Our ids with an image and a query slot as one entry each, as the golden cases store them."""
    ids, position = [], 0
    while position < len(input_ids):
        token_id, length = int(input_ids[position]), 1
        if token_id == config.image_token_id:
            token_id, length = STORED_IMAGE, config.num_visual_tokens * num_views
            assert (input_ids[position : position + length] == config.image_token_id).all()
        elif token_id == config.first_query_token_id:
            token_id, length = STORED_SLOT, config.num_query_tokens
            assert input_ids[position : position + length].tolist() == config.query_token_ids
        ids.append(token_id)
        position += length
    return ids


# ---- golden cases ----


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_golden_inference(name, model, processor, golden):
    case = CASES[name]
    image = golden_checkpoint.image(**case["image"])
    inputs = processor(images=image, text=case["prompt"], hd=case["hd"], return_tensors="pt")
    num_views = len(inputs["pixel_values"])
    assert stored_form(inputs["input_ids"][0], model.config, num_views) == golden[f"{name}.input_ids"].tolist()

    with torch.no_grad():
        outputs = model(**inputs)
        features = model.get_image_features(inputs["pixel_values"], inputs["view_mask"])
        pooled, _ = model.model.pooling(features.last_hidden_state[0])
    found = {
        "logits": outputs.logits[0, :, ::97],
        "vision_features": features.last_hidden_state[0, :, ::9, ::16],
        "pooled": pooled[..., ::16],
        "projected": features.pooler_output[0],
    }
    for what, tensor in found.items():
        torch.testing.assert_close(tensor, golden[f"{name}.{what}"], **ACTIVATION_TOLERANCE)

    generated = model.generate(**inputs, max_new_tokens=case["max_new_tokens"])
    assert generated[0, inputs["input_ids"].shape[1] :].tolist() == golden[f"{name}.generated"].tolist()


def test_golden_training(model, processor, golden):
    rows = CASES["v3"]["rows"]
    conversations = []
    for row in rows:
        messages = []
        for question, answer in row["turns"]:
            content = [{"type": "text", "text": question}]
            if "image" in row and not messages:
                content.insert(0, {"type": "image", "image": golden_checkpoint.image(**row["image"])})
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        conversations.append(messages)
    inputs = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    supervised = torch.as_tensor(inputs.pop("assistant_masks")).bool()
    is_text = inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~supervised, -100)
    for row in range(len(rows)):
        stored = golden["v3.attention_mask"][row].bool()
        ids = stored_form(inputs["input_ids"][row][is_text[row]], model.config, 1)
        assert ids == golden["v3.input_ids"][row][stored].tolist()
        stored_labels = golden["v3.labels"][row]
        assert labels[row][labels[row] != -100].tolist() == stored_labels[stored_labels != -100].tolist()

    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    outputs = model(**inputs, labels=labels)
    torch.testing.assert_close(outputs.loss.detach(), golden["v3.loss"][0], **ACTIVATION_TOLERANCE)
    # at padding the published code computes something else, which nothing reads
    logits = outputs.logits.detach()[..., ::97][is_text]
    torch.testing.assert_close(logits, golden["v3.logits"][is_text], **ACTIVATION_TOLERANCE)

    outputs.loss.backward()
    parameters = dict(model.named_parameters())
    names = [key.removeprefix("v3.grad_norm.") for key in golden if key.startswith("v3.grad_norm.")]
    assert len(names) == 12
    for name in names:
        gradient = parameters[rename(name, PUBLISHED)].grad
        sample = gradient.flatten()[:: max(1, gradient.numel() // 512)]
        expected = golden[f"v3.grad.{name}"]
        assert (sample - expected).norm() <= GRADIENT_TOLERANCE * expected.norm(), name
        assert (sample - expected).abs().max() <= GRADIENT_TOLERANCE * expected.abs().max(), name
        assert abs(gradient.norm() / golden[f"v3.grad_norm.{name}"] - 1) <= GRADIENT_TOLERANCE, name
    assert all(parameter.grad is None for parameter in model.model.vision_tower.parameters())
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["kind"] == "preprocess"])
def test_golden_preprocessing(name, processor, golden):
    case = CASES[name]
    image = golden_checkpoint.image(**case["image"])
    inputs = processor.image_processor(image, hd=case["hd"], do_rescale=False, do_normalize=False, return_tensors="np")
    pixels = np.ascontiguousarray(inputs["pixel_values"])
    assert pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["sha256"]
    if f"{name}.pixels_uint8" in golden:
        stored = golden[f"{name}.pixels_uint8"].numpy()
        assert (pixels == stored.reshape(pixels.shape)).all()
    normalized = processor.image_processor(image, hd=case["hd"], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(normalized, (pixels / 255 - 0.5) / 0.5, atol=1e-6)


# ---- there and back ----


def test_every_published_name_is_in_the_table_both_ways():
    names = golden_checkpoint.read("parameters.json")
    renamed = {rename(name, PUBLISHED) for name in names}
    assert None not in renamed and len(renamed) == len(names)
    for name in names:
        assert rename(rename(name, PUBLISHED), backwards(PUBLISHED)) == name
    assert rename("model.lqformer.unknown", PUBLISHED) is None


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


def test_folder_is_complete(converted, processor):
    names = {file.name for file in converted.iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "configuration_flashsloth.py",
        "generation_config.json",
        "image_processing_flashsloth.py",
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
    assert processor.tokenizer.convert_tokens_to_ids(tokens) == list(range(50295, 50308))
    assert processor.tokenizer.padding_side == "left"


# ---- other towers and tokenizers ----


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


def test_tokenizer_that_has_some_of_the_tokens(source, converted, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(golden_checkpoint.TOKENIZER)
    tokenizer.add_tokens(["<learnable>"])
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    ours = convert_checkpoint(source, tmp_path / "ours", tokenizer=tmp_path / "tokenizer")
    found, expected = (read_json(folder / "tokenizer.json")["added_tokens"] for folder in (ours, converted))
    assert found == expected


def test_tokenizer_errors(source, weights, tmp_path):
    shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match="holds no tokenizer.*--tokenizer"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(golden_checkpoint.TOKENIZER)
    tokenizer.add_tokens(["something else"])
    tokenizer.save_pretrained(tmp_path / "larger")
    with pytest.raises(ValueError, match="query_slot_token_id 50296 instead of 50295.*50296 entries.*--tokenizer"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours", tokenizer=tmp_path / "larger")
    make_tokenizer().save_pretrained(tmp_path / "smaller")
    with pytest.raises(ValueError, match="query_slot_token_id 256 instead of 50295.*256 entries.*--tokenizer"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours", tokenizer=tmp_path / "smaller")
    assert os.listdir(tmp_path) and not (tmp_path / "ours").exists()


def test_added_tokens_keep_text_as_it_was():
    base = AutoTokenizer.from_pretrained(golden_checkpoint.TOKENIZER)
    ours = add_special_tokens(base)
    text = "Ünïcode  spaces\t\n    def f(x): 日本語 🦥 <imag e>"
    assert ours.encode(text) == base.encode(text)
    assert len(base) == 50295 and len(ours) == 50308


# ---- errors ----


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


def test_a_tensor_that_shows_a_size_is_missing(weights, tmp_path):
    tensors = {name: tensor for name, tensor in weights.items() if name != "model.learnable_tokens.token"}
    golden_checkpoint.write(tmp_path / "source", tensors)
    with pytest.raises(ValueError, match="missing.*model.learnable_tokens.token"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours")


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


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "llama"}, "no published FlashSloth config"),
        ({"model_type": "flashsloth"}, "in this project's layout already"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": 128}, "wrongly shaped"),
        ({"num_hidden_layers": 7}, "query_layer=7 is outside the decoder"),
    ],
)
def test_config_errors(changes, message, source, tmp_path):
    with_config(source, tmp_path / "source", **changes)
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(tmp_path / "source", tmp_path / "ours")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()


def test_source_errors(source, tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder, and cannot be downloaded from the Hub"):
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


def test_damaged_and_hostile_weights(weights, source, tmp_path):
    folder = tmp_path / "source"
    shutil.copytree(source, folder)
    whole = (source / "model.safetensors").read_bytes()

    def error_of() -> str:
        with pytest.raises(ValueError) as error:
            convert_checkpoint(folder, tmp_path / "ours")
        assert not (tmp_path / "ours").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    for content in (whole[:-1], whole[:100], b"", (1 << 60).to_bytes(8, "little") + whole[8:]):
        (folder / "model.safetensors").write_bytes(content)
        assert "model.safetensors is damaged" in error_of()
    header = json.dumps({"lm_head.bias": {"dtype": "F32", "shape": [100], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "model.safetensors is damaged" in error_of()
    (folder / "model.safetensors").unlink()

    index = folder / "model.safetensors.index.json"
    for file_name, message in (
        ("../source/model.safetensors", "not a file name in its own folder"),
        ("/etc/passwd", "not a file name in its own folder"),
        ("config.json", "only .safetensors and .bin"),
        ("gone.safetensors", "gone.safetensors is missing"),
    ):
        index.write_text(json.dumps({"weight_map": {"lm_head.bias": file_name}}))
        assert message in error_of()
    save_file({"lm_head.bias": weights["lm_head.bias"]}, folder / "part.safetensors")
    index.write_text(json.dumps({"weight_map": {"lm_head.bias": "part.safetensors", "other": "part.safetensors"}}))
    assert "1 tensors that its files do not hold, such as other" in error_of()
    index.unlink()

    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({"lm_head.bias": Hostile()}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin cannot be read as plain tensors" in error_of()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.bias": Hostile()}))
    assert "pytorch_model.bin cannot be read as plain tensors" in error_of()
    torch.save([1, 2], folder / "pytorch_model.bin")
    assert "must hold a dictionary of tensors" in error_of()
    assert not (tmp_path / "executed").exists()


# ---- all or nothing ----


def test_failure_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flashsloth.folders.tensors._write_safetensors", fail)
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(source, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []


def test_kill_leaves_nothing_that_looks_finished(source, tmp_path):
    script = """
import os, signal, sys
from flashsloth.convert import convert_checkpoint
from flashsloth.folders import tensors
written = 0
class Stream:  # the file that the weights are written to; dies with half of them in it
    def __init__(self, file, mode):
        self.stream = open(file, mode)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.stream.close()
    def write(self, data):
        global written
        written += len(data)
        self.stream.write(data)
        if written > 40_000_000:
            self.stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
tensors.open = Stream
convert_checkpoint(*sys.argv[1:])
"""
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "ours")]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("ours.incomplete-")
    assert (left / "model.safetensors").stat().st_size > 40_000_000
    # a second try is not in the way of what the first one left
    assert (convert_checkpoint(source, tmp_path / "ours") / "model.safetensors").is_file()


def test_one_tensor_in_memory_at_a_time(tmp_path):
    alive, most = 0, 0

    class Counted(torch.Tensor):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def read():
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return torch.zeros(10, 10).as_subclass(Counted)

    write_tensors({str(i): LazyTensor((10, 10), torch.float32, read) for i in range(20)}, tmp_path, "2KB")
    assert len(Checkpoint(tmp_path)) == 20
    assert most <= 4  # views of one tensor count as well


def read_json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def set_config(folder: Path, **changes) -> None:
    """Overwrites values in a model folder's config."""
    content = {**read_json(folder / "config.json"), **changes}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def with_config(source: Path, folder: Path, **changes) -> Path:
    """A copy of a model folder with other values in its config."""
    shutil.copytree(source, folder)
    set_config(folder, **changes)
    return folder
