# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""New models from two tiny backbones."""

import json
import resource
import shutil
import signal
import subprocess
import sys

import golden_checkpoint
import pytest
import torch
from backbones import BASE_SIZE, OPTIONS, save_language_model, save_siglip
from huggingface_hub import constants
from model_folders import Hostile, error_of
from safetensors.torch import load_file
from samples import make_image, user
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    SiglipVisionModel,
)

from flashsloth import cli, register_auto_classes
from flashsloth.convert import compose, convert_checkpoint, to_original
from flashsloth.folders.tensors import Checkpoint


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """A function that saves and returns a language model, with its folder, and the SigLIP beside it."""
    root = tmp_path_factory.mktemp("backbones")

    def make(name="plain", **fields):
        return save_language_model(root / name, **fields), root / name

    return make, save_siglip(root / "siglip"), root / "siglip"


@pytest.mark.parametrize("tied", [False, True])
def test_composed_model_answers(tied, backbones, tmp_path):
    make, siglip, vision_folder = backbones
    language, language_folder = make(f"tied {tied}", tie_word_embeddings=tied)
    folder = compose(language_folder, vision_folder, tmp_path / "new", **OPTIONS)
    register_auto_classes()
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    config = model.config
    assert model.dtype == torch.bfloat16 and config.tie_word_embeddings == tied
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert (config.grid_size, config.num_visual_tokens, config.query_hidden_size, config.query_num_heads) == (
        6,
        4,
        24,
        4,
    )

    tower = model.model.vision_tower
    assert len(tower.encoder.layers) == 2
    expected = siglip.vision_model.state_dict()
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name
    expected = language.model.state_dict()
    for name, tensor in model.model.language_model.state_dict().items():
        assert torch.equal(tensor[: expected[name].shape[0]], expected[name]), name
    assert torch.equal(model.lm_head.weight[:BASE_SIZE], language.lm_head.weight)
    assert torch.equal(model.lm_head.bias[:BASE_SIZE], language.lm_head.bias)

    processor = AutoProcessor.from_pretrained(folder)
    vocabulary = processor.tokenizer.get_vocab()
    assert config.text_config.vocab_size == 320 and len(vocabulary) == BASE_SIZE + 8
    assert config.query_token_ids == [vocabulary[f"<query_{index}>"] for index in range(4)]
    assert [vocabulary["</s>"], vocabulary["<pad>"]] == [config.eos_token_id, config.pad_token_id]
    assert config.query_base_token_id == vocabulary["Ġ."]
    assert config.turn_prefix_length == len(processor.tokenizer.tokenize("USER:")) < 5
    inputs = processor.apply_chat_template(
        [user(make_image(), "What?")], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    length = inputs["input_ids"].shape[1]
    new_ids = model.generate(**inputs, max_new_tokens=8)[0, length:]
    assert not set(new_ids.tolist()) & (set(config.placeholder_token_ids) - {config.pad_token_id})


def test_room_in_the_embeddings_is_used(backbones, tmp_path):
    make, _, vision_folder = backbones
    language, language_folder = make("roomy", vocab_size=300)
    folder = compose(language_folder, vision_folder, tmp_path / "new", **OPTIONS)
    tensors = load_file(folder / "model.safetensors")
    assert torch.equal(tensors["model.language_model.embed_tokens.weight"], language.model.embed_tokens.weight)
    assert torch.equal(tensors["lm_head.weight"], language.lm_head.weight)


def test_options(backbones, tmp_path):
    make, siglip, vision_folder = backbones
    _, language_folder = make()
    whole = compose(
        language_folder,
        vision_folder,
        tmp_path / "whole",
        vision_feature_layer=-1,
        dtype="float32",
        hd=True,
        **OPTIONS,
    )
    config = json.loads((whole / "config.json").read_text())
    assert str(language_folder) not in json.dumps(config)
    assert config["vision_config"]["num_hidden_layers"] == 3 and config["dtype"] == "float32"
    assert json.loads((whole / "processor_config.json").read_text())["image_processor"]["hd"] is True
    last = load_file(whole / "model.safetensors")["model.vision_tower.encoder.layers.2.mlp.fc1.weight"]
    assert torch.equal(last, siglip.vision_model.encoder.layers[2].mlp.fc1.weight)

    SiglipVisionModel.from_pretrained(vision_folder).save_pretrained(tmp_path / "vision half")
    half = compose(language_folder, tmp_path / "vision half", tmp_path / "half", **OPTIONS)
    both = compose(language_folder, vision_folder, tmp_path / "both", **OPTIONS)
    assert (half / "model.safetensors").read_bytes() == (both / "model.safetensors").read_bytes()

    for mode in ("average", "none"):
        names = Checkpoint(compose(language_folder, vision_folder, tmp_path / mode, pooling_mode=mode, **OPTIONS))
        assert not any("pooling" in name for name in names)
    plain = compose(language_folder, vision_folder, tmp_path / "no queries", num_query_tokens=0)
    assert not any("query" in name for name in Checkpoint(plain))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"query_layer": 3}, "query_layer=3 is outside the decoder, whose layers are 0 to 2"),
        ({"pooling_size": 4}, "pooling_size=4 must divide the patch grid of 6 x 6"),
        ({"query_num_heads": 5}, "query_num_heads=5 must divide"),
        ({"query_num_heads": 0}, "query_num_heads=0 must divide"),
        ({"query_hidden_size": 0}, "must divide query_hidden_size=0"),
        ({"vision_feature_layer": 0}, "vision_feature_layer=0 must lie between -1"),
        ({"vision_feature_layer": -4}, "vision_feature_layer=-4 must lie between -1"),
        ({"query_base_token_id": 400}, "query_base_token_id=400 is outside the vocabulary of 320"),
        ({"dtype": "float7"}, "dtype 'float7'"),
    ],
)
def test_sizes_that_do_not_fit(options, message, backbones, tmp_path):
    make, _, vision_folder = backbones
    _, language_folder = make()
    with pytest.raises(ValueError, match=message) as error:
        compose(language_folder, vision_folder, tmp_path / "new", **{**OPTIONS, **options})
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_backbones(backbones, tmp_path):
    make, _, vision_folder = backbones
    _, language_folder = make()
    _, small_folder = make("small", vocab_size=128)
    with pytest.raises(ValueError, match="261 tokens, but the language model in .*small embeds 128"):
        compose(small_folder, vision_folder, tmp_path / "new", **OPTIONS)
    with pytest.raises(ValueError, match="is a config of 'phi', not of a SigLIP"):
        compose(language_folder, language_folder, tmp_path / "new", **OPTIONS)
    with pytest.raises(ValueError, match="is a 'siglip' model of several parts"):
        compose(vision_folder, vision_folder, tmp_path / "new", **OPTIONS)
    with pytest.raises(ValueError, match="no/such folder is not a folder, and cannot be downloaded from the Hub"):
        compose("no/such folder", vision_folder, tmp_path / "new", **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_with_a_far_token(backbone_folders, tmp_path):
    content = json.loads((backbone_folders["language"] / "tokenizer.json").read_text())
    content["model"]["vocab"]["far"] = 5000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    message = error_of(compose, *backbone_folders.values(), tmp_path / "new", tokenizer=tmp_path, **OPTIONS)
    assert "The tokenizer has 5001 tokens, but the language model in" in message
    assert not (tmp_path / "new").exists()


def test_a_damaged_tokenizer(backbone_folders, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    message = error_of(compose, *backbone_folders.values(), tmp_path / "new", tokenizer=tmp_path, **OPTIONS)
    assert f"The tokenizer in {tmp_path} cannot be read" in message and not (tmp_path / "new").exists()


def test_pickles_are_read_where_there_is_nothing_better(backbones, cache, tmp_path):
    make, siglip, vision_folder = backbones
    _, language_folder = make()
    expected = compose(language_folder, vision_folder, tmp_path / "expected", **OPTIONS)
    old = tmp_path / "old"
    shutil.copytree(vision_folder, old)
    (old / "model.safetensors").unlink()
    torch.save(siglip.state_dict(), old / "pytorch_model.bin")
    cache("someone/old", old)
    folder = compose(language_folder, "someone/old", tmp_path / "new", **OPTIONS)
    found, expected = (load_file(path / "model.safetensors") for path in (folder, expected))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_composed_model_has_a_published_form(backbones, tmp_path):
    """With Phi-2's tokenizer and the published constants a new model goes to the published layout and back."""
    make, _, vision_folder = backbones
    _, language_folder = make(
        "eight layers", vocab_size=51200, hidden_size=8, intermediate_size=8, num_hidden_layers=8
    )
    ours = compose(language_folder, vision_folder, tmp_path / "ours", tokenizer=golden_checkpoint.TOKENIZER)
    original = to_original(ours, tmp_path / "original")
    back = convert_checkpoint(original, tmp_path / "back", vision_config=vision_folder / "config.json")
    assert (back / "model.safetensors").read_bytes() == (ours / "model.safetensors").read_bytes()
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (ours, back))
    assert first.pop("original_config") is None
    assert second.pop("original_config") == json.loads((original / "config.json").read_text())
    assert first == second


# ---- from a Hub ----


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A function that puts a folder into the Hub's local cache; the Hub itself is switched off (conftest)."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def add(repo_id, folder):
        cached = tmp_path / "cache" / f"models--{repo_id.replace('/', '--')}"
        shutil.copytree(folder, cached / "snapshots" / REVISION)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(REVISION)
        return cached

    return add


def test_hub_ids_come_from_the_cache(backbones, cache, tmp_path, caplog, capsys):
    make, _, vision_folder = backbones
    _, language_folder = make()
    cache("someone/language", language_folder)
    cache("someone/vision", vision_folder)
    local = compose(language_folder, vision_folder, tmp_path / "local", **OPTIONS)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    names = ["--language-model", f"someone/language@{REVISION}", "--vision-model", "someone/vision"]
    assert cli.main(["compose", *names, str(tmp_path / "cached"), *options]) == 0
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'cached'}\n" and "Writing weights: 100%" in output.err
    assert (tmp_path / "cached" / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()
    assert "it is unknown whether the local copy of someone/vision is complete" in caplog.text
    (entry,) = json.loads((tmp_path / "cached" / "provenance.json").read_text())
    assert entry["sources"] == [
        {"role": "language_model", "repo": "someone/language", "revision": REVISION},
        {"role": "vision_model", "repo": "someone/vision", "revision": REVISION},
    ]


def test_backbones_of_a_hub(hub, monkeypatch, tmp_path, capsys):
    save_language_model(tmp_path / "language")
    save_siglip(tmp_path / "vision")
    extra = {"README.md": b"# Phi", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"graph"}
    hub.add_repo("lab/language", tmp_path / "language")
    old = hub.commit("lab/language", extra)
    hub.add_repo("lab/vision", tmp_path / "vision")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]

    def compose(language_model: str, name: str, vision_model: str = "lab/vision") -> int:
        names = ["--language-model", language_model, "--vision-model", vision_model, str(tmp_path / name)]
        return cli.main(["compose", *names, *options])

    def weights(name: str) -> bytes:
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert compose(str(tmp_path / "language"), "expected", str(tmp_path / "vision")) == 0
    hub.fail("GET", "lab/language/resolve/.*safetensors", 500)
    assert compose("lab/language", "latest") == 1
    assert "Run the command again" in capsys.readouterr().err and not (tmp_path / "latest").exists()
    assert compose("lab/language", "latest") == 0
    assert weights("latest") == weights("expected")
    fetched = {request.path.split("/")[-1] for request in hub.requests if request.method == "GET"}
    assert "model.safetensors" in fetched and not fetched & {path.split("/")[-1] for path in extra}

    save_language_model(tmp_path / "other", initializer_range=0.5)
    new = hub.commit("lab/language", tmp_path / "other")
    assert compose(f"lab/language@{old}", "old") == compose("lab/language@main", "new") == 0
    assert weights("old") == weights("expected") != weights("new")
    (entry,) = json.loads((tmp_path / "new" / "provenance.json").read_text())
    assert entry["sources"] == [
        {"role": "language_model", "repo": "lab/language", "revision": new},
        {"role": "vision_model", "repo": "lab/vision", "revision": hub.head("lab/vision").sha},
    ]
    for name, words in (
        ("lab/language@v9", "Revision Not Found"),
        ("lab/nothing", "Repository Not Found"),
    ):
        assert compose(name, "none") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert (
            error.startswith(f"flashsloth compose: error: {name} is not a folder, and cannot be downloaded")
            and words in error
        )

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert compose(f"lab/language@{old}", "offline") == compose("lab/language@main", "offline new") == 0
    assert weights("offline") == weights("expected") and weights("offline new") == weights("new")
    assert compose("lab/nothing", "none") == 2
    assert not (tmp_path / "none").exists()


# ---- the command line, a full disk, a kill ----


def test_hostile_weights_on_the_command_line(backbone_folders, tmp_path, capsys):
    executed = tmp_path / "executed"
    (tmp_path / "vision").mkdir()
    shutil.copy(backbone_folders["vision"] / "config.json", tmp_path / "vision")
    torch.save({"a": Hostile(executed)}, tmp_path / "vision" / "pytorch_model.bin")
    names = ["--language-model", str(backbone_folders["language"]), "--vision-model", str(tmp_path / "vision")]
    assert cli.main(["compose", *names, str(tmp_path / "new")]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert "flashsloth compose: error:" in output.err and "cannot be read as plain tensors" in output.err
    assert not executed.exists() and [left.name for left in tmp_path.iterdir()] == ["vision"]


def test_a_full_disk_leaves_nothing(backbone_folders, tmp_path, capsys):
    names = ["--language-model", str(backbone_folders["language"]), "--vision-model", str(backbone_folders["vision"])]
    options = ["--query-layer", "1", "--max-shard-size", "50KB"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Beyond it a write ends with an OSError, as on a full disk; code and tokenizer are smaller.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        status = cli.main(["compose", *names, str(tmp_path / "new"), *options, "--query-hidden-size", "4096"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    output = capsys.readouterr()
    assert status == 1 and output.out == ""
    assert "flashsloth compose: error: File too large" in output.err.splitlines()[-1] and "Traceback" not in output.err
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_nothing_that_looks_finished(backbone_folders, tmp_path):
    script = """
import os, signal, sys
from flashsloth.convert import compose
from flashsloth.folders import tensors
class Progress(tensors.tqdm):  # dies when the first tensors have been written
    def update(self, n=1):
        super().update(n)
        if self.n > 100_000:
            os.kill(os.getpid(), signal.SIGKILL)
tensors.tqdm = Progress
compose(*sys.argv[1:], query_layer=1)
"""
    command = [
        sys.executable,
        "-c",
        script,
        backbone_folders["language"],
        backbone_folders["vision"],
        tmp_path / "new",
    ]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("new.incomplete-") and (left / "model.safetensors").is_file()
    compose(backbone_folders["language"], backbone_folders["vision"], tmp_path / "new", **OPTIONS)
