# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Exported folders: what they hold, models of every kind, large weights, and that nothing is half-made."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from model_folders import error_of, read_json
from safetensors.torch import load_file, save_file
from samples import make_config, make_image, make_model

import flashsloth
from flashsloth import FlashSlothImageProcessor, FlashSlothProcessor, cli
from flashsloth.export import onnx as export
from flashsloth.folders.exported import EXPORT_FILE, GRAPHS
from flashsloth.folders.provenance import read_provenance
from flashsloth.loading import SHIPPED_CHECKPOINT


DYNAMIC = {
    "vision_encoder": {"pixel_values": ["views", 3, 96, 96], "patches": ["views", 144, 128]},
    "embed_tokens": {
        "input_ids": ["batch", "length"],
        "image_features": ["batch", "views", 9, 128],
        "view_mask": ["batch", "views"],
        "past_length": [],
        "inputs_embeds": ["batch", "length", 128],
        "patch_mask": ["batch", "length", "patches"],
    },
    "decoder_model_merged": {
        "attention_mask": ["batch", "total_length"],
        "patches": ["batch", "patches", 128],
        "instruction_mask": ["batch", "length", "length"],
        "past_key_values.4.value": ["batch", 4, "past_length", 32],
        "logits": ["batch", 1, 704],
        "query_attentions": ["batch", "length", "patches"],
        "present.0.key": ["batch", 4, "total_length", 32],
    },
}


def saved(folder: Path, processor, config=None) -> Path:
    """A random model and a processor that fits it."""
    model = make_model(config)
    model.save_pretrained(folder)
    image_processor = FlashSlothImageProcessor(size={"height": 24, "width": 24})
    FlashSlothProcessor(
        image_processor, processor.tokenizer, model.config.num_visual_tokens, model.config.num_query_tokens
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(processor, tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("source") / "model", processor)


def test_the_folder_is_that_of_a_model_without_weights(exported):
    names = {file.name for file in exported.iterdir()}
    others = {file.name for file in SHIPPED_CHECKPOINT.iterdir() if file.is_file()}
    missing = others - names
    assert not any(name.endswith((".py", ".jinja")) or "config" in name or "token" in name for name in missing)
    assert not list(exported.glob("*.safetensors"))
    assert {file.name for file in (exported / "onnx").iterdir()} == {
        *(f"{graph}{suffix}.onnx" for graph in GRAPHS for suffix in ("", "_q8")),
        "decoder_model_merged_q4.onnx",
    }
    assert read_json(exported / "config.json") == read_json(SHIPPED_CHECKPOINT / "config.json") | {
        "transformers_version": read_json(exported / "config.json")["transformers_version"]
    }


def test_the_record_says_what_was_done(exported):
    record = read_json(exported / EXPORT_FILE)
    assert (record["format"], record["opset"], record["default"]) == ("onnx", 20, "float32")
    assert {"torch", "onnx", "onnxscript", "onnxruntime"} <= record["versions"].keys()
    tokenizer = ["tokenizer.json", "tokenizer_config.json"]
    others = ["chat_template.jinja", "config.json", "generation_config.json", "processor_config.json"]
    assert record["settings"] == others + tokenizer
    *before, entry = read_provenance(exported)
    assert before == read_provenance(SHIPPED_CHECKPOINT)
    assert (entry["command"], entry["weights"], entry["sources"]) == (
        "export",
        "float32, int8, int4",
        [{"role": "base", "folder": SHIPPED_CHECKPOINT.name}],
    )


def test_axes_have_names_and_graphs_no_paths(exported):
    for file in (exported / "onnx").iterdir():
        onnx.checker.check_model(file)
        session = onnxruntime.InferenceSession(file)
        shapes = {value.name: value.shape for value in [*session.get_inputs(), *session.get_outputs()]}
        graph = next(graph for graph in GRAPHS if file.name.startswith(graph))
        assert {name: shapes[name] for name in DYNAMIC[graph]} == DYNAMIC[graph]
        assert not re.search(rb"site-packages|\.py\b", file.read_bytes())


OTHERS = {
    "shared heads, tied embeddings, every patch a visual token": {
        "pooling_mode": "none",
        "tie_word_embeddings": True,
        "lm_head_bias": False,
        "query_base_token_id": None,
        "text_config": {"model_type": "llama", "num_key_value_heads": 2, "tie_word_embeddings": True},
    },
    "no query tokens, averaged patches": {"pooling_mode": "average", "num_query_tokens": 0},
}


@pytest.mark.parametrize("overrides", OTHERS.values(), ids=OTHERS)
def test_other_models_answer_as_in_torch(overrides, processor, tmp_path):
    folder = saved(tmp_path / "model", processor, make_config(**overrides))
    by_onnx = flashsloth.load(export.export_onnx(folder, tmp_path / "exported"), backend="onnxruntime")
    by_torch = flashsloth.load(folder, device="cpu")
    rows = [make_image(0), None, [make_image(1), make_image(2)]], ["What is this?", "Hi?", "Which is larger?"]
    options = {"max_new_tokens": 5, "suppress_tokens": [257]}
    for answer, expected in zip(by_onnx.ask(*rows, **options), by_torch.ask(*rows, **options), strict=True):
        assert answer.text == expected.text
    answer, expected = (
        one.ask(make_image(0), "What is this?", explain=True, **options) for one in (by_onnx, by_torch)
    )
    for kind in ("query_tokens", "pooling"):
        found, wanted = (vars(one.attention[0])[kind] for one in (answer, expected))
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_longrope_changes_its_frequencies_where_torch_does(processor, tmp_path):
    rotary = {"rope_type": "longrope", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 32}
    rotary |= {"short_factor": [1.0] * 4, "long_factor": [1.5, 2.0, 4.0, 8.0]}
    config = make_config(text_config={"model_type": "llama", "rope_parameters": rotary})
    folder = saved(tmp_path / "model", processor, config)
    by_onnx = flashsloth.load(export.export_onnx(folder, tmp_path / "exported"), backend="onnxruntime").backend.model
    by_torch = flashsloth.load(folder, device="cpu", dtype="float32").backend.model
    for length in (32, 33, 60, 20):  # the last is short again
        ids = np.arange(length)[None] + 5
        mask = np.ones_like(ids)
        logits, _ = by_onnx.decode(by_onnx.decoder_inputs(ids, mask, None, 0), by_onnx.empty_past(1))
        with torch.no_grad():
            expected = by_torch(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        np.testing.assert_allclose(logits[:, -1], expected[:, -1], atol=1e-4)


def test_a_decoder_that_cannot_be_exported_leaves_nothing(processor, tmp_path, capsys):
    rotary = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = make_config(text_config={"model_type": "llama", "rope_parameters": rotary})
    folder = saved(tmp_path / "model", processor, config)
    assert cli.main(["export", str(folder), str(tmp_path / "exported"), "--format", "onnx"]) == 2
    assert "has rope_type 'dynamic'" in capsys.readouterr().err.splitlines()[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_large_weights_lie_beside_the_graph(source, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MOST_BYTES_WITHIN", 0)
    folder = export.export_onnx(source, tmp_path / "parts", ["float32", "int4"])
    files = {file.name: file.stat().st_size for file in (folder / "onnx").iterdir()}
    for graph in (name for name in files if name.endswith(".onnx")):
        assert files[f"{graph}_data"] > 0
    assert {f"onnx/{name}": size for name, size in files.items()} == read_json(folder / EXPORT_FILE)["files"]
    parts = flashsloth.load(shutil.move(folder, tmp_path / "moved"), backend="onnxruntime")
    question = make_image(0), "What is this?"
    expected = flashsloth.load(source, device="cpu").ask(*question, max_new_tokens=9)
    assert parts.ask(*question, max_new_tokens=9).text == expected.text
    assert flashsloth.load(tmp_path / "moved", backend="onnxruntime", dtype="int4").ask(*question, max_new_tokens=3)


def test_float16_keeps_its_cache_in_float16(source, tmp_path):
    folder = export.export_onnx(source, tmp_path / "half", ["float16"])
    model = flashsloth.load(folder, backend="onnxruntime")
    expected = flashsloth.load(source, device="cpu").ask(make_image(0), "What is this?", max_new_tokens=1)
    assert model.ask(make_image(0), "What is this?", max_new_tokens=1).text == expected.text
    session = onnxruntime.InferenceSession(folder / "onnx" / "decoder_model_merged_fp16.onnx")
    types = {value.name: value.type for value in session.get_inputs()}
    assert (types["inputs_embeds"], types["past_key_values.0.key"]) == ("tensor(float)", "tensor(float16)")


def test_what_cannot_be_exported_is_named_and_nothing_is_written(source, processor, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    weights, name = load_file(broken / "model.safetensors"), "model.pooling.fc1.weight"
    weights[name][0, 0] = torch.inf
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    destination = tmp_path / "exported"
    assert f"{name} holds numbers that are not finite" in error_of(export.export_onnx, broken, destination)
    assert "weights must be among float32" in error_of(export.export_onnx, source, destination, ["int2"])
    assert "weights must be among float32" in error_of(export.export_onnx, source, destination, [])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "is not empty" in error_of(export.export_onnx, source, tmp_path / "full")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken", "full"]


def test_the_command(source, exported, tmp_path, capsys):
    assert cli.main(["export", str(source), str(tmp_path / "tiny"), "--format", "onnx", "--weights", "int8"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tiny'}\n"
    assert read_json(tmp_path / "tiny" / EXPORT_FILE)["default"] == "int8"
    model = ["--model", str(tmp_path / "tiny"), "--backend", "onnxruntime"]
    assert cli.main(["ask", "--max-new-tokens", "2", *model, "What is this?"]) == 0
    output = capsys.readouterr()
    assert "Loaded onto cpu in int8, by onnxruntime" in output.err
    again = [str(source), str(tmp_path / "again")]
    for command, message in (
        (["export", str(exported), again[1], "--format", "onnx"], "is an exported model"),
        (["export", *again, "--format=onnx", "--max-views=5"], "--max-views belong to --format executorch"),
        (["ask", "--model", str(source), "--backend", "onnxruntime", "What?"], "is no exported model: it has no"),
        (["ask", *model, "--dtype", "int4", "What?"], "holds no weights in int4: take int8, or export"),
        (["ask", *model, "--device", "mps", "What?"], "has no device 'mps' here"),
    ):
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tiny"]


def test_a_killed_export_leaves_nothing_that_looks_whole(source, tmp_path):
    command = [sys.executable, "-m", "flashsloth", "export", str(source), str(tmp_path / "tiny"), "--format", "onnx"]
    for number, left in ((signal.SIGTERM, 0), (signal.SIGKILL, 1)):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while not list(tmp_path.glob("tiny.incomplete-*/onnx")) and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
        assert not (tmp_path / "tiny").exists()
        assert len(list(tmp_path.iterdir())) == left
    (unfinished,) = tmp_path.iterdir()
    assert "is left over from an interrupted command" in error_of(flashsloth.load, unfinished, backend="onnxruntime")
