# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of exported models ends with one JSON object; its figures are not tested."""

import json

import pytest

from flashsloth.bench import main
from flashsloth.loading import SHIPPED_CHECKPOINT


MEASURED = {"load_s", "time_to_first_token_s", "seconds_per_token", "peak_memory_gb"}


def test_an_answer_of_an_exported_model(exported, capsys):
    options = ["--new-tokens", "2", "--threads", "1"]
    main(["export", "--only", str(exported), "--backend", "onnxruntime", *options])
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured.keys() == MEASURED and all(value > 0 for value in measured.values())


@pytest.mark.slow
def test_exported_models_are_measured_beside_torch(tmp_path, capsys):
    options = ["--model", str(SHIPPED_CHECKPOINT), "--new-tokens", "2", "--rounds", "1", "--folder", str(tmp_path)]
    main(["export", *options, "--weights", "int4"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert MEASURED <= report["torch float32"].keys()
    assert report["onnxruntime int4"].keys() > MEASURED | {"export_s", "export_peak_gb", "disk_gb"}
    assert not list(tmp_path.iterdir())
