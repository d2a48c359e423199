# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of quantized models ends with one JSON object; its figures are not tested."""

import json

import pytest
from samples import make_config, make_model

from flashsloth.bench import main
from flashsloth.convert.quantization import quantize
from flashsloth.loading import runs_int4


@pytest.fixture
def model_folder(processor, tmp_path):
    """A model folder whose decoder is wide enough for groups of int4."""
    model = tmp_path / "model"
    make_model(make_config(text_config={"hidden_size": 64})).save_pretrained(model)
    processor.save_pretrained(model)
    return model


def test_decoding_of_a_quantized_model(model_folder, tmp_path, capsys):
    folder = quantize(model_folder, tmp_path / "int8", "int8")
    main(["quantize", "--only", str(folder), "--new-tokens", "1", "--dtype", "float32"])
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured.keys() == {"load_s", "memory_gb", "seconds_per_token"}
    assert measured["seconds_per_token"] > 0 and measured["memory_gb"] > 0


@pytest.mark.slow
def test_quantized_models_are_measured_beside_the_original(model_folder, tmp_path, capsys):
    options = ["--model", str(model_folder), "--new-tokens", "1", "--dtype", "float32", "--folder", str(tmp_path)]
    main(["quantize", *options])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["original"]["disk_gb"] > report["int8"]["disk_gb"] > report["int4"]["disk_gb"] > 0
    for name in ("int8", "int4"):
        assert report[name]["quantize_s"] > 0 and report[name]["quantize_peak_gb"] > 0
    decoded = {"original", "int8", "int4"} if runs_int4() else {"original", "int8"}
    assert {name for name in ("original", "int8", "int4") if "seconds_per_token" in report[name]} == decoded
    assert all(report[name]["seconds_per_token"] > 0 for name in decoded)
    assert {file.name for file in tmp_path.iterdir()} == {"model"}
