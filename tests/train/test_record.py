# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The record of a run, training.json, and the figure of its curves."""

import json

import torch


def test_training_json_holds_what_repeats_the_run(finished, start):
    record = json.loads((finished / "training.json").read_text())
    assert record["stage"]["model"] == str(start / "model")
    assert record["stage"]["data"][0]["path"] == str(start / "data")
    assert record["config"]["gradient_accumulation_steps"] == 2
    assert record["seeds"]["seed"] == 42
    assert record["data"]["rows"] == 12 and record["data"]["fingerprint"]
    assert record["versions"]["torch"] == torch.__version__
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
