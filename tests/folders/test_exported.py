# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The record of an export: what graphs belong to which weights, and what of it is not believed."""

import json
from pathlib import Path

import pytest
from model_folders import error_of

from flashsloth.folders.digest import digest_of_config
from flashsloth.folders.exported import (
    EXPORT_FILE,
    GRAPHS,
    check_config,
    check_settings,
    chosen_dtype,
    files_of,
    graph_file,
    is_exported,
    program_weights,
    read_export,
    settings_of,
)


def record(**changes) -> dict:
    """A record of an export in int4, whose decoder has a file of weights beside it."""
    dtypes = {"vision_encoder": "int8", "embed_tokens": "int8", "decoder_model_merged": "int4"}
    files = {graph: graph_file(graph, dtype) for graph, dtype in dtypes.items()}
    sizes = {name: 10 for name in files.values()} | {"onnx/decoder_model_merged_q4.onnx_data": 7}
    sizes["onnx/decoder_model_merged.onnx"] = 99  # of other weights
    return {"format": "onnx", "default": "int4", "weights": {"int4": files}, "files": sizes, **changes}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / EXPORT_FILE).write_text(json.dumps(record()), encoding="utf-8")
    return tmp_path


def test_the_files_of_weights_are_found(folder):
    found = read_export(folder)
    assert files_of(found, "int4") == {
        "onnx/vision_encoder_q8.onnx": 10,
        "onnx/embed_tokens_q8.onnx": 10,
        "onnx/decoder_model_merged_q4.onnx": 10,
        "onnx/decoder_model_merged_q4.onnx_data": 7,
    }
    assert [chosen_dtype(found, dtype, folder) for dtype in ("auto", "fast", "int4")] == ["int4"] * 3
    assert "holds no weights in float16: take int4, or export" in error_of(chosen_dtype, found, "float16", folder)


def test_names_are_those_of_transformers_js():
    assert [graph_file(graph, "float32") for graph in GRAPHS] == [
        "onnx/vision_encoder.onnx",
        "onnx/embed_tokens.onnx",
        "onnx/decoder_model_merged.onnx",
    ]
    assert graph_file("decoder_model_merged", "float16") == "onnx/decoder_model_merged_fp16.onnx"


def test_a_folder_without_a_record_is_no_exported_model(tmp_path):
    assert not is_exported(tmp_path)
    assert f"Export it first: flashsloth export {tmp_path} DST" in error_of(read_export, tmp_path)


FLOAT32 = {graph: graph_file(graph, "float32") for graph in GRAPHS}
DAMAGED = {
    "no weights": ({"weights": {}}, "it does not name the graphs of the model"),
    "weights that are a list": ({"weights": []}, "it does not name the graphs of the model"),
    "unknown weights": ({"weights": {"int2": record()["weights"]["int4"]}, "default": "int2"}, "does not name the"),
    "another default": ({"default": "float32"}, "its default 'float32' is none of its weights (int4)"),
    "a default that is a list": ({"default": []}, "its default '[]' is none of its weights"),
    "a default that is an object": ({"default": {}}, "its default '{}' is none of its weights"),
    "a graph less": ({"weights": {"int4": {"vision_encoder": "onnx/vision_encoder_q8.onnx"}}}, "for int4 are not"),
    "graphs that are a list": ({"weights": {"int4": list(GRAPHS)}}, "for int4 are not those of such weights"),
    "graphs that are numbers": ({"weights": {"int4": dict.fromkeys(GRAPHS, 4)}}, "for int4 are not those of such"),
    "graphs of other weights": ({"weights": {"int4": FLOAT32}}, "the graphs that it names for int4 are not those"),
    "a file elsewhere": ({"weights": {"int4": dict.fromkeys(GRAPHS, "../../secret.onnx")}}, "for int4 are not those"),
    "sizes elsewhere": ({"files": {"../secret": 3}}, "its files are not sizes in bytes of files in onnx/"),
    "a graph without a size": ({"files": {}}, "it has no size for onnx/decoder_model_merged_q4.onnx"),
    "sizes that are text": ({"files": dict.fromkeys(record()["files"], "10")}, "its files are not sizes in bytes"),
    "sizes that are truths": ({"files": dict.fromkeys(record()["files"], True)}, "its files are not sizes in bytes"),
    "sizes below 0": ({"files": dict.fromkeys(record()["files"], -1)}, "its files are not sizes in bytes"),
    "no files": ({"files": None}, "its files are not sizes in bytes"),
    "an unknown format": ({"format": "gguf"}, "its format 'gguf' is neither 'onnx' nor 'executorch'"),
    "a format that is an object": ({"format": {}}, "its format '{}' is neither"),
    "settings elsewhere": ({"settings": ["../config.json"]}, "its settings are not names of files"),
    "settings that are a text": ({"settings": "config.json"}, "its settings are not names of files"),
    "a hash that is a number": ({"config_sha256": 5}, "its config_sha256 is no text"),
}


@pytest.mark.parametrize(("changes", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_named(tmp_path, changes, reason):
    (tmp_path / EXPORT_FILE).write_text(json.dumps(record(**changes)), encoding="utf-8")
    message = error_of(read_export, tmp_path)
    assert "export.json is damaged: " in message and reason in message
    assert message.endswith("Copy or export the model again.")


def test_a_config_that_changed_after_the_export_is_named(tmp_path):
    config = {"query_layer": 1, "text_config": {"rope_parameters": {"rope_theta": 1e4}}, "transformers_version": "5"}
    file = tmp_path / "config.json"
    made = record(config_sha256=digest_of_config(config))
    for changes in ({}, {"transformers_version": "6"}):
        file.write_text(json.dumps(config | changes), encoding="utf-8")
        check_config(made, file)
    for changes in ({"query_layer": 2}, {"text_config": {"rope_parameters": {"rope_theta": 1e5}}}):
        file.write_text(json.dumps(config | changes), encoding="utf-8")
        assert f"{file} is not the config that the graphs were made of" in error_of(check_config, made, file)
        check_config(record(), file)  # of a record without a hash


def test_a_file_of_settings_that_is_missing_is_named(folder):
    for name in ("config.json", "chat_template.jinja"):
        (folder / name).touch()
    made = record(settings=settings_of(folder))
    assert made["settings"] == ["chat_template.jinja", "config.json", EXPORT_FILE]
    check_settings(made, folder)
    (folder / "chat_template.jinja").unlink()
    message = f"{folder / 'chat_template.jinja'} is missing, but the model needs it. Copy or export the model again."
    assert error_of(check_settings, made, folder) == message
    check_settings(record(), folder)  # of a record without names


def test_a_program_is_not_read_as_graphs(tmp_path):
    (tmp_path / EXPORT_FILE).write_text(json.dumps({"format": "executorch", "weights": "int8"}), encoding="utf-8")
    assert f"{tmp_path} holds an ExecuTorch program, which apps run" in error_of(read_export, tmp_path)


@pytest.mark.parametrize("weights", [["float16"], ["int4"], ["int8", "float32"], []])
def test_a_program_holds_one_kind_of_weights(weights):
    message = error_of(program_weights, weights)
    assert (
        message
        == f"An ExecuTorch program holds one kind of weights, float32 or int8, not {', '.join(weights) or 'none'}."
    )


def test_the_weights_of_a_program():
    assert [program_weights([name]) for name in ("float32", "int8")] == ["float32", "int8"]
