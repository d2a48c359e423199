# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Hostile and damaged checkpoints: each is one clear error, runs nothing, and leaves nothing behind."""

import json
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from backbones import OPTIONS, save_language_model, save_siglip
from safetensors.torch import save_file

from flashsloth import cli
from flashsloth.convert import compose
from flashsloth.folders.tensors import Checkpoint


DEEP = 100_000  # levels of nesting


def error_of(function, *args, **kwargs) -> str:
    """The message of the `ValueError` that a call must end with: one line."""
    with pytest.raises(ValueError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- safetensors headers ----


def tensor(shape=(4,), offsets=(0, 16), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write_header(folder: Path, header, length: int | None = None) -> None:
    """A safetensors file of 64 bytes of data behind any header, whose length may be a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"lies": tensor((100,), (0, 64))}, r"lies of shape \[100\] and dtype F32 takes 400 bytes, not 64"),
        ({"a": tensor(), "lies": tensor((14,), (8, 64))}, "lies begins at byte 8 .* the one before it ends at 16"),
        ({"a": tensor(), "lies": tensor((8,), (32, 64))}, "lies begins at byte 32 .* the one before it ends at 16"),
        ({"lies": tensor((100,), (0, 400))}, "lies ends at byte 400 of the data, which has 64"),
        ({"lies": tensor()}, "its tensors end at byte 16 of the data, which has more"),
        ({"lies": tensor((20,), (-16, 64))}, "lies has shape"),
        ({"lies": tensor((-4,), (0, 64))}, "lies has shape"),
        ({"lies": tensor((4.5,), (0, 64))}, "lies has shape"),
        ({"lies": tensor((16,), (64, 0))}, "lies of shape"),
        ({"lies": tensor((10**18,), (0, 64))}, "lies of shape .* takes 4000000000000000000 bytes, not 64"),
        ({"lies": tensor((10**18,), (0, 4 * 10**18))}, "lies ends at byte 4000000000000000000"),
        ({"lies": tensor((2**63, 2**63), (0, 64))}, "lies of shape"),
        ({"lies": tensor((1,) * 1000, (0, 4))}, "lies has shape"),
        ({"lies": tensor((16,), (0, 64), dtype="F99")}, "lies in .* has dtype 'F99', which is not supported"),
        ({"lies": tensor((64,), (0, 64), dtype="F8_E4M3")}, "lies in .* has dtype 'F8_E4M3'"),
        ({"lies": 5}, "lies lacks a dtype, shape or place"),
        ({"lies": {"dtype": "F32"}}, "lies lacks a dtype, shape or place"),
        ([1], "its header is a list"),
        (b'{"lies": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 64]}}', "it holds NaN"),
        (b'{"lies": ' + b"9" * 5000 + b"}", "its header is no JSON"),
        (b'{"lies": ', "its header is no JSON"),
        (b"[" * DEEP, "its header is no JSON"),
        (b'{"\xff": 1}', "its header is no JSON"),
        (
            json.dumps({"lies": tensor()}).encode()[:-1]
            + b", "
            + json.dumps({"lies": tensor((16,), (0, 64))}).encode()[1:],
            "it names lies twice",
        ),
    ],
)
def test_headers_that_lie(header, message, tmp_path):
    write_header(tmp_path, header)
    with pytest.raises(ValueError, match=message) as error:
        Checkpoint(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("length", [2**64 - 1, 10**18, 99_999_999, 1000])
def test_headers_of_a_wrong_length(length, tmp_path):
    write_header(tmp_path, {"a": tensor((16,), (0, 64))}, length)
    assert f"a header of {length} bytes in a file of" in error_of(Checkpoint, tmp_path)


def test_honest_headers(tmp_path):
    write_header(
        tmp_path, {"empty": tensor((0, 3), (0, 0)), "a": tensor((4, 4), (0, 64)), "__metadata__": {"format": "pt"}}
    )
    found = Checkpoint(tmp_path)
    assert {name: tensor.shape for name, tensor in found.items()} == {"empty": (0, 3), "a": (4, 4)}
    assert not found["a"].read().any()


# ---- indices ----


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_indices_stay_in_their_folder(name, separator, tmp_path):
    save_file({"a": torch.zeros(4)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    name = name.replace("/", separator)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "which is not a file name in its own folder" in error_of(Checkpoint, folder)


def test_the_cache_of_the_hub_is_made_of_links(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file({"a": torch.ones(4)}, blobs / "abc")
    (blobs / "def").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    (snapshot / "model-00001-of-00001.safetensors").symlink_to("../../blobs/abc")
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/def")
    assert Checkpoint(snapshot)["a"].read().all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * DEEP, "index.json is not valid JSON"),
        ('{"weight_map": ' + "9" * 5000 + "}", "index.json is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"weight_map": []}', "has no 'weight_map'"),
        ('{"weight_map": {"a": 5}}', "puts a in 5"),
    ],
)
def test_damaged_indices(content, message, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert message in error_of(Checkpoint, tmp_path)


def test_json_of_any_size_is_not_read(tmp_path):
    with open(tmp_path / "model.safetensors.index.json", "wb") as stream:
        stream.truncate(10**12)  # a hole: it takes no room on the disk
    assert "has 1000000000000 bytes, too many" in error_of(Checkpoint, tmp_path)


# ---- pickles ----


class Hostile:
    """What an attacker puts into a pickle: a call."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("kind", ["in a dictionary", "alone", "legacy", "plain pickle"])
def test_nothing_is_unpickled(kind, tmp_path):
    executed, file = tmp_path / "executed", tmp_path / "pytorch_model.bin"
    content = {"a": torch.zeros(4), "b": Hostile(executed)}
    if kind == "plain pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        content = Hostile(executed) if kind == "alone" else content
        torch.save(content, file, _use_new_zipfile_serialization=kind != "legacy")
    message = error_of(Checkpoint, tmp_path)
    assert f"{file} cannot be read as plain tensors" in message and "Use a safetensors version." in message
    assert "weights_only" not in message.partition("(")[0] and not executed.exists()
    # The payload works: it is not run because it is refused.
    torch.load(file, weights_only=False) if kind != "plain pickle" else pickle.loads(file.read_bytes())
    assert executed.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1).expand(10**12)}, "a of shape [1000000000000] has more elements than are stored"),
        ({"a": torch.zeros(4, device="meta")}, "a is a tensor of dtype torch.float32, layout torch.strided on meta"),
        ({"a": torch.zeros(4).to_sparse()}, "layout torch.sparse_coo"),
        ({"a": torch.zeros(4, dtype=torch.complex64)}, "a is a tensor of dtype torch.complex64"),
        ({1: torch.zeros(4)}, "it names a tensor 1"),
        ({"a": 5}, "must hold a dictionary of tensors"),
    ],
)
def test_pickles_of_unusual_tensors(content, message, tmp_path):
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert message in error_of(Checkpoint, tmp_path)


def test_damaged_pickles(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(4)}, file)
    assert not Checkpoint(tmp_path)["a"].read().any()
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-1], b"\x80\x02" + b"(" * DEEP):
        file.write_bytes(content)
        assert "cannot be read as plain tensors" in error_of(Checkpoint, tmp_path)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # as a bomb would be
        for name, content in members.items():
            archive.writestr(name, content)
    assert "is compressed, which torch.save does not do" in error_of(Checkpoint, tmp_path)


# ---- configs and tokenizers ----


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    save_language_model(root / "language")
    save_siglip(root / "vision")
    return {"language": root / "language", "vision": root / "vision"}


@pytest.fixture
def refused(backbones, tmp_path):
    """A function that composes with one file of a backbone replaced, and returns the error."""

    def attempt(part: str, file: str, content: str | bytes | None) -> str:
        folder = tmp_path / part
        shutil.copytree(backbones[part], folder)
        (folder / file).unlink(missing_ok=True)
        if content is not None:
            (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        folders = {**backbones, part: folder}
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
        ("language", "hidden_act", "nonsense", "does not describe a model that can be built"),
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
def test_sizes_are_believed_only_if_the_weights_have_them(part, field, value, message, backbones, refused):
    config = json.loads((backbones[part] / "config.json").read_text())
    (config["vision_config"] if part == "vision" else config)[field] = value
    assert message in refused(part, "config.json", json.dumps(config))


def test_a_vision_config_that_is_no_object(refused):
    assert "has a vision_config that is a list" in refused("vision", "config.json", '{"vision_config": [1]}')


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "cannot be read"),
        ("tokenizer.json", "[]", "cannot be read"),
        ("tokenizer.json", "[" * DEEP, "cannot be read"),
        ("tokenizer.json", b"\xff\xfe", "cannot be read"),
        ("tokenizer.json", None, "holds no tokenizer (neither tokenizer.json nor vocab.json)"),
        ("tokenizer_config.json", "[]", "cannot be read"),
        ("tokenizer_config.json", '{"a":' * DEEP, "cannot be read"),
    ],
)
def test_damaged_tokenizers(file, content, message, refused):
    assert message in refused("language", file, content)


def test_tokenizers_of_another_kind(backbones, tmp_path):
    def attempt() -> str:
        return error_of(
            compose, backbones["language"], backbones["vision"], tmp_path / "new", tokenizer=folder, **OPTIONS
        )

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    assert "holds only a sentencepiece model (tokenizer.model)" in attempt()
    (folder / "tokenizer.json").write_bytes((backbones["language"] / "tokenizer.json").read_bytes())
    (folder / "config.json").write_text('{"model_type": "phi", "num_labels": 1000000000000}')
    assert "config.json has num_labels 1000000000000; no model has more" in attempt()
    (folder / "config.json").unlink()
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] = {**content["model"]["vocab"], "far": 5000}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "The tokenizer has 5001 tokens, but the language model in" in attempt()
    assert not (tmp_path / "new").exists()


# ---- the command line, a full disk, a kill ----


def test_hostile_weights_on_the_command_line(backbones, tmp_path, capsys):
    executed = tmp_path / "executed"
    (tmp_path / "vision").mkdir()
    shutil.copy(backbones["vision"] / "config.json", tmp_path / "vision")
    torch.save({"a": Hostile(executed)}, tmp_path / "vision" / "pytorch_model.bin")
    names = ["--language-model", str(backbones["language"]), "--vision-model", str(tmp_path / "vision")]
    assert cli.main(["compose", *names, str(tmp_path / "new")]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert "flashsloth compose: error:" in output.err and "cannot be read as plain tensors" in output.err
    assert not executed.exists() and [left.name for left in tmp_path.iterdir()] == ["vision"]


def test_a_full_disk_leaves_nothing(backbones, tmp_path, capsys):
    names = ["--language-model", str(backbones["language"]), "--vision-model", str(backbones["vision"])]
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
    assert "flashsloth compose: error: [Errno" in output.err.splitlines()[-1] and "Traceback" not in output.err
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_nothing_that_looks_finished(backbones, tmp_path):
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
    command = [sys.executable, "-c", script, backbones["language"], backbones["vision"], tmp_path / "new"]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("new.incomplete-") and (left / "model.safetensors").is_file()
    compose(backbones["language"], backbones["vision"], tmp_path / "new", **OPTIONS)
