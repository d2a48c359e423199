# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The record of a run, training.json, and the figure of its curves."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from stages import run, stage
from transformers import TrainerState

from flashsloth.train import record as record_module
from flashsloth.train.record import RunRecord, draw


LINE = (31, 119, 180)  # the first color of matplotlib


def test_training_json_holds_what_repeats_the_run(finished, start):
    record = json.loads((finished / "training.json").read_text())
    assert record["stage"]["model"] == str(start / "model")
    assert record["stage"]["data"][0]["path"] == str(start / "data")
    assert record["config"]["gradient_accumulation_steps"] == 2
    assert record["seeds"]["seed"] == 42
    assert record["data"]["rows"] == 12 and record["data"]["fingerprint"]
    assert record["versions"]["torch"] == torch.__version__
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_record_and_curves_survive_a_resumed_run(finished, start, tmp_path, monkeypatch):
    """They hold all steps, also those before the checkpoint, from the first moment on."""
    drawn = []
    monkeypatch.setattr(record_module, "draw", lambda curves, file: drawn.append(curves))
    shutil.copytree(finished / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.copy(finished / "training.json", tmp_path)
    run("stage2", start, tmp_path, "save_steps=1", "learning_rates={model.pooling: 1e-3}")
    history = json.loads((finished / "trainer_state.json").read_text())["log_history"]
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    assert [curves["loss (nats)"]["loss"] for curves in (drawn[0], drawn[-1])] == [losses[:2], losses]
    before, after = (json.loads((folder / "training.json").read_text()) for folder in (finished, tmp_path))
    assert after["result"]["step"] == 3
    for key in ("seeds", "data", "versions", "processes"):
        assert after[key] == before[key]


def write(folder, history=(), is_first_process=True):
    """What a run in `folder` writes when it has logged `history`."""
    callback = RunRecord(stage(["lm_head"], output_dir=str(folder)), Dataset.from_dict({"id": ["a", "b"]}), "f1")
    state = TrainerState(log_history=list(history), is_world_process_zero=is_first_process)
    callback.on_save(None, state, None)


def test_the_last_log_is_the_result(tmp_path):
    write(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["result"] == {} and record["data"] == {"fingerprint": "f1", "rows": 2, "skipped": []}
    write(tmp_path / "out", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}])
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["result"] == {"step": 2, "loss": 1.5}
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["training.json"]


def test_one_process_of_many_writes(tmp_path):
    write(tmp_path / "out", is_first_process=False)
    assert not (tmp_path / "out").exists()


def test_a_record_that_cannot_be_written_names_the_file_and_the_remedy(tmp_path):
    (tmp_path / "out").write_text("a file in place of the folder")
    with pytest.raises(OSError, match="cannot write .*out.training.json: .* make room, and start the same command"):
        write(tmp_path / "out")


@pytest.mark.parametrize("values", [[2.0, 1.0], [0.0, 0.0], []], ids=["logarithmic", "zeros", "none yet"])
def test_curves_have_a_panel_for_each_title(values, tmp_path):
    one = {"loss": {"loss": list(enumerate(values))}}
    draw(one, tmp_path / "one.png")
    draw(one | {"rates": {"first": list(enumerate(values)), "second": [(0, 3.0)]}}, tmp_path / "two.png")
    first, second = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("one", "two"))
    assert second.shape == (first.shape[0], 2 * first.shape[1], 3)
    assert (first == LINE).all(axis=-1).any() == bool(values)
