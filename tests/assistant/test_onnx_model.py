# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Exported folders that cannot be run: one line says what is wrong and what to do, before anything is computed."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnxruntime
import pytest
from model_folders import error_of, read_json, set_config

import flashsloth
from flashsloth import cli
from flashsloth.assistant import onnx_model
from flashsloth.folders.exported import EXPORT_FILE
from flashsloth.folders.json_files import write_json


DECODER = "onnx/decoder_model_merged.onnx"
ASK = "flashsloth ask --backend onnxruntime --model MODEL QUESTION"
# What is given: the command, a part of the message, and the exit status.
BAD_INPUT = {
    "a model that was not exported": (ASK, "is no exported model: it has no export.json. Export it first", 2),
    "a damaged record": (ASK, "export.json is damaged: it does not name the graphs of the model. Copy", 2),
    "a damaged value in the record": (ASK, "its default '[]' is none of its weights (float32, int4, int8). Copy", 2),
    "weights of the record that are swapped": (ASK, "names for float32 are not those of such weights. Copy or", 2),
    "another layer of Embedded Query": (ASK, "config.json is not the config that the graphs were made of", 2),
    "another base of RoPE": (ASK, "config.json is not the config that the graphs were made of", 2),
    "no chat template": (ASK, "chat_template.jinja is missing, but the model needs it. Copy or export the model", 2),
    "no generation config": (ASK, "generation_config.json is missing, but the model needs it. Copy or export", 2),
    "no tokenizer beside the graphs": (ASK, "tokenizer.json is missing, but the model needs it", 2),
    "no settings of the tokenizer beside the graphs": (ASK, "tokenizer_config.json is missing, but the model", 2),
    "a graph that is missing": (ASK, "onnx/embed_tokens.onnx is missing, but the model needs it", 2),
    "a graph that is cut short": (ASK, "it is cut short or damaged. Copy or export the model again", 2),
    "weights beside a graph that are cut short": (ASK, "decoder_model_merged.onnx_data has 10 bytes, but had", 2),
    "a graph of the right size that is damaged": (ASK, "cannot load", 2),
    "a graph of an opset that onnxruntime lacks": (ASK, "or install a newer onnxruntime", 2),
    "a graph of an IR version that onnxruntime lacks": (ASK, "Unsupported model IR version", 2),
    "graphs of another vision tower": (ASK, "takes pixel_values of size 96 along axis 2, but the config has 48", 2),
    "graphs of another decoder": (ASK, "has 5 layers, but the config has 4: they are of different models", 2),
    "graphs of another vocabulary": (ASK, "has 704 tokens, but the config has 710: they are of different models", 2),
    "another graph in the place of the decoder": (ASK, "has no input inputs_embeds. Export the model again", 2),
    "less memory than the graphs take": (ASK, "GB of memory, but 0.0 GB are free: close other programs, or export", 2),
    "a generation config with beams": (ASK, "generation_config.json sets num_beams=4, which the backend", 2),
    "a generation config without an end": (ASK, "has no eos_token_id: answers would not end", 2),
}


def replaced(folder: Path, name: str, content: bytes) -> None:
    """Writes a file of an exported folder, whose record then has its size."""
    (folder / name).write_bytes(content)
    record = read_json(folder / EXPORT_FILE)
    record["files"][name] = len(content)
    write_json(record, folder / EXPORT_FILE)


def with_version(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / DECODER)
    change(model)
    replaced(folder, DECODER, model.SerializeToString())


def with_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def with_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 999


def beside(folder: Path) -> None:
    """Puts weights into a file beside their graph, and cuts that short."""
    model = onnx.load(folder / DECODER)
    onnx.save(model, folder / DECODER, save_as_external_data=True, location="decoder_model_merged.onnx_data")
    replaced(folder, DECODER, (folder / DECODER).read_bytes())
    data = f"{DECODER}_data"
    replaced(folder, data, (folder / data).read_bytes())
    (folder / data).write_bytes(bytes(10))


def set_generation(folder: Path, **settings) -> None:
    file = folder / "generation_config.json"
    write_json({**read_json(file), **settings}, file)


def set_record(folder: Path, **values) -> None:
    write_json({**read_json(folder / EXPORT_FILE), **values}, folder / EXPORT_FILE)


def set_tower(folder: Path, name: str, **sizes) -> None:
    set_config(folder, **{name: {**read_json(folder / "config.json")[name], **sizes}})


CHANGES = {
    "a model that was not exported": lambda folder: (folder / EXPORT_FILE).unlink(),
    "a damaged record": lambda folder: write_json({"weights": {}}, folder / EXPORT_FILE),
    "a damaged value in the record": lambda folder: set_record(folder, default=[]),
    "weights of the record that are swapped": lambda folder: set_record(
        folder, weights={"float32": read_json(folder / EXPORT_FILE)["weights"]["int8"]}
    ),
    "another layer of Embedded Query": lambda folder: set_config(folder, query_layer=2),
    "another base of RoPE": lambda folder: set_tower(
        folder,
        "text_config",
        rope_parameters={"rope_theta": 5000.0, "partial_rotary_factor": 0.5, "rope_type": "default"},
    ),
    "no chat template": lambda folder: (folder / "chat_template.jinja").unlink(),
    "no generation config": lambda folder: (folder / "generation_config.json").unlink(),
    "no tokenizer beside the graphs": lambda folder: (folder / "tokenizer.json").unlink(),
    "no settings of the tokenizer beside the graphs": lambda folder: (folder / "tokenizer_config.json").unlink(),
    "a graph that is missing": lambda folder: (folder / "onnx/embed_tokens.onnx").unlink(),
    "a graph that is cut short": lambda folder: (folder / DECODER).write_bytes((folder / DECODER).read_bytes()[:-9]),
    "weights beside a graph that are cut short": beside,
    "a graph of the right size that is damaged": lambda folder: replaced(folder, DECODER, bytes(1000)),
    "a graph of an opset that onnxruntime lacks": lambda folder: with_version(folder, with_opset),
    "a graph of an IR version that onnxruntime lacks": lambda folder: with_version(folder, with_ir_version),
    "graphs of another decoder": lambda folder: set_tower(folder, "text_config", num_hidden_layers=4),
    "graphs of another vocabulary": lambda folder: set_tower(folder, "text_config", vocab_size=710),
    "another graph in the place of the decoder": lambda folder: replaced(
        folder, DECODER, (folder / "onnx/embed_tokens.onnx").read_bytes()
    ),
    "a generation config with beams": lambda folder: set_generation(folder, num_beams=4),
    "a generation config without an end": lambda folder: set_generation(folder, eos_token_id=None),
}


def other_tower(folder: Path) -> None:
    """Half the size, in the config and in the processor, with as many visual tokens."""
    set_tower(folder, "vision_config", image_size=48, patch_size=4)
    file = folder / "processor_config.json"
    fields = read_json(file)
    fields["image_processor"]["size"] = {"height": 48, "width": 48}
    write_json(fields, file)


CHANGES["graphs of another vision tower"] = other_tower


@pytest.fixture
def folder(exported, tmp_path) -> Iterator[Path]:
    """A copy of an exported model in float32."""
    copy = tmp_path / "model"
    shutil.copytree(exported, copy, ignore=shutil.ignore_patterns("*_q4*", "*_q8*"))
    yield copy


@pytest.mark.parametrize("given", BAD_INPUT)
def test_bad_folders_are_named(given, folder, tmp_path, monkeypatch, capsys):
    _, message, status = BAD_INPUT[given]
    if given == "less memory than the graphs take":
        (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 1 kB\n", encoding="ascii")
        monkeypatch.setattr(onnx_model, "MEMORY_FILE", tmp_path / "meminfo")
    else:
        CHANGES[given](folder)
    assert cli.main(["ask", "--backend", "onnxruntime", "--model", str(folder), "What is this?"]) == status
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("flashsloth ask: error: ") and message in line


def test_threads_are_those_that_are_asked_for(monkeypatch):
    for environment, threads, expected in (("3", None, 3), ("3", 1, 1), ("2,1", None, 0), ("", None, 0)):
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
        assert onnx_model.session_options(threads).intra_op_num_threads == expected


# Prefills of growing shapes, as a server has them; prints by how many MB the process is larger then.
MANY_SHAPES = """
import sys
from pathlib import Path
import numpy as np
import flashsloth

def megabytes():
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))

model = flashsloth.load(sys.argv[1], backend="onnxruntime", dtype="float32").backend.model

def prefill(rows, length):
    ids = np.full((rows, length), 5)
    model.decode(model.decoder_inputs(ids, np.ones_like(ids), None, 0), model.empty_past(rows))

prefill(1, 20)
before = megabytes()
for rows, length in ((1, 300), (3, 510), (5, 620), (8, 800), (1, 20)):
    prefill(rows, length)
print(megabytes() - before)
"""
MOST_MEGABYTES = 100  # an arena that keeps what the largest of these shapes took grows by more than 400


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs the memory of a process, as Linux tells it")
def test_memory_of_large_batches_is_given_back(exported):
    command = [sys.executable, "-c", MANY_SHAPES, str(exported)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < MOST_MEGABYTES


def test_only_devices_of_onnxruntime_are_taken(monkeypatch):
    assert onnx_model.find_provider("cpu") == "CPUExecutionProvider"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "no device 'cuda:0' here (onnxruntime-gpu has cuda)" in error_of(onnx_model.find_provider, "cuda:0")
    assert "no device 'tpu' here: take 'cpu'" in error_of(onnx_model.find_provider, "tpu")


def test_onnxruntime_writes_no_lines_of_its_own(folder, capfd):
    """The error that is raised says it all: here a number of four bytes that has three."""
    model = onnx.load(folder / DECODER)
    number = next(one for one in model.graph.initializer if len(one.raw_data) == 4)
    number.raw_data = number.raw_data[:3]
    replaced(folder, DECODER, model.SerializeToString())
    capfd.readouterr()
    assert "(4 bytes)" in error_of(flashsloth.load, folder, backend="onnxruntime")
    written = capfd.readouterr()
    assert (written.out, "onnxruntime" in written.err) == ("", False)


def test_what_a_device_cannot_do_is_not_done_by_the_cpu(exported, monkeypatch, capfd):
    options = onnx_model.session_options(None)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):  # onnxruntime's, without a GPU
        message = error_of(onnx_model.open_graph, exported / DECODER, options, "CUDAExecutionProvider")
    assert "cannot use CUDAExecutionProvider here, and would compute on the CPU" in message

    def fail(*_):
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    message = error_of(onnx_model.open_graph, exported / DECODER, options, "CPUExecutionProvider")
    assert "decoder_model_merged.onnx: the device is lost" in message
    assert capfd.readouterr().out == ""  # onnxruntime would print that it falls back


def test_only_the_wanted_graphs_come_from_the_hub(exported, hub):
    hub.add_repo("owner/name", exported)
    model = flashsloth.load("owner/name", backend="onnxruntime", dtype="int4")
    assert {file.name for file in (model.model.folder / "onnx").iterdir()} == {
        "vision_encoder_q8.onnx",
        "embed_tokens_q8.onnx",
        "decoder_model_merged_q4.onnx",
    }
    expected = flashsloth.load(exported, backend="onnxruntime", dtype="int4")
    assert model.ask(None, "Hello?").text == expected.ask(None, "Hello?").text


@pytest.mark.parametrize("threads", [0, -1, 99_999, "2", 1.5, True])
def test_threads_are_no_more_than_cores(threads):
    assert f"threads is {threads!r}: take a whole number from 1 to" in error_of(onnx_model.session_options, threads)
