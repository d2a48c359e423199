# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Runs that were stopped: by kill -9, in the middle of a checkpoint too, and by a full disk."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from samples import QUICK_RUN, make_model

import flashsloth
from flashsloth.tiny.data import make_dataset
from flashsloth.train.config import read_config
from flashsloth.train.resume import (
    MARKER,
    checkpoints,
    last_complete_checkpoint,
    mark_complete,
    rotate,
    what_is_missing,
)
from flashsloth.train.sft import train_stage


CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs"
SMALL = ("max_steps=5", "save_steps=2", "save_total_limit=null", "learning_rate=1e-3", *QUICK_RUN)

# Kills itself (kill -9) when all files of the second checkpoint are written, but its marker is not.
KILLED = """
import os, signal, sys
from pathlib import Path
from flashsloth.train import trainer
from flashsloth.train.config import read_config
from flashsloth.train.sft import train_stage

mark_complete = trainer.mark_complete

def kill_at_the_second(folder):
    if folder.name == "checkpoint-4":
        os.kill(os.getpid(), signal.SIGKILL)
    mark_complete(folder)

trainer.mark_complete = kill_at_the_second
train_stage(read_config(Path(sys.argv[1]), sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory, processor):
    """A random model and eight rows: five steps of four are two epochs and a half."""
    folder = tmp_path_factory.mktemp("start")
    model = make_model()
    model.model.pooling.dropout.p = model.config.pooling_dropout = 0.1  # random numbers have to be resumed as well
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    make_dataset("questions", "train", 8).save_to_disk(folder / "data")
    return folder


def overrides(start, output, *more):
    return [f"model={start / 'model'}", f"data={start / 'data'}", f"output_dir={output}", *SMALL, *more]


def run(start, output, *more):
    return train_stage(read_config(CONFIGS / "stage2.yaml", overrides(start, output, *more)))


def test_a_run_that_was_stopped_after_its_last_step_takes_no_other(start, whole, tmp_path):
    """The last checkpoint is there, in the middle of an epoch, but the model is not."""
    shutil.copytree(whole / "checkpoint-5", tmp_path / "checkpoint-5")
    shutil.copy(whole / "training.json", tmp_path)
    run(start, tmp_path)
    assert_same(tmp_path, whole)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-5"]


def losses(output):
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """OUTPUT_DIR of a run that nothing stopped."""
    output = tmp_path_factory.mktemp("whole")
    run(start, output)
    return output


def assert_same(output, whole):
    assert losses(output) == losses(whole)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (output, whole))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_after_kill_9_the_same_command_ends_bit_identical(start, whole, tmp_path, caplog):
    command = [sys.executable, "-c", KILLED, str(CONFIGS / "stage2.yaml"), *overrides(start, tmp_path)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "checkpoint-4" / "model.safetensors").is_file()
    assert not (tmp_path / "checkpoint-4" / MARKER).exists()
    assert not (tmp_path / "model").exists()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    # The record of the run is there from its start, and its curves up to the checkpoint.
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["stage"]["trainable"] and record["data"]["rows"] == 8 and record["result"]["step"] == 2
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"{tmp_path / 'checkpoint-4'}, which is incomplete: it has no {MARKER}" in caplog.text
    run(start, tmp_path)
    assert_same(tmp_path, whole)
    assert what_is_missing(tmp_path / "checkpoint-4") is None  # written anew


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate=2e-3", "other settings: learning_rate was 0.001 and is now 0.002"),
        ("trainable=[lm_head]", r"other settings: trainable was .* and is now \['lm_head'\]"),
        ("global_batch_size=2", "other settings: rows per step was 4 and is now 2"),
        ("model=stage1/model", "other settings: model was .*/model and is now stage1/model"),
        ("hd=true", "other settings: hd was False and is now True"),
        ("data=other", r"other settings: data\[0\].path was data and is now other"),
        ("data=[a, b]", "other settings: sources of data was 1 and is now 2"),
    ],
)
def test_a_changed_command_does_not_go_on(override, message, start, whole, tmp_path):
    shutil.copytree(whole / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.copy(whole / "training.json", tmp_path)
    with pytest.raises(ValueError, match=f"the run in {tmp_path} was started with {message}"):
        run(start, tmp_path, override)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-2"]


def test_changed_data_does_not_go_on_and_moved_data_does(start, whole, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(whole / "checkpoint-4", output / "checkpoint-4")
    shutil.copy(whole / "training.json", output)
    make_dataset("questions", "train", 9).save_to_disk(tmp_path / "data")
    with pytest.raises(ValueError, match=f"the run in {output} was started with other data under these names"):
        run(start, output, f"data={tmp_path / 'data'}")
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(start / "data", tmp_path / "data")
    run(start, output, f"data={tmp_path / 'data'}", "logging_steps=5")
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (output, whole))
    assert all(torch.equal(first[key], second[key]) for key in first)


def record_of_version_0_1(start, fingerprint: str) -> dict:
    """`training.json` as version 0.1.0 wrote it for `run(start, output)`, as far as it is read again."""
    return {
        "stage": {
            "model": f"/before/it/moved/{start.name}/model",
            "data": [
                {
                    "path": "/before/it/moved/data",
                    "image_folder": None,
                    "name": None,
                    "split": "train",
                    "revision": None,
                    "weight": None,
                    "streaming": False,
                    "captions": False,
                }
            ],
            "trainable": [
                "model.pooling",
                "model.multi_modal_projector",
                "model.query_tokens",
                "model.embedded_query",
                "model.language_model",
                "lm_head",
            ],
            "global_batch_size": 4,
            "learning_rates": {},
            "hd": False,
            "optimizer": "adamw",
            "attn_implementation": "sdpa",
            "on_bad_rows": "stop",
            "lora": None,
            "quantization": None,
        },
        "config": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "num_train_epochs": 1,
            "max_steps": 5,
            "learning_rate": 0.001,
            "lr_scheduler_type": "cosine",
            "lr_scheduler_kwargs": "None",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_length": 3072,
            "optim": "adamw_torch_fused",
            "data_seed": "None",
            "seed": 42,
            "train_sampling_strategy": "group_by_length",
            "dataloader_num_workers": 0,
        },
        "processes": 1,
        "seeds": {"seed": 42, "data_seed": None},
        "data": {"fingerprint": fingerprint, "rows": 8, "skipped": []},
        "versions": {"flashsloth": "0.1.0"},
        "device": "cpu",
        "result": {},
    }


def test_a_run_that_version_0_1_started_goes_on(start, whole, tmp_path):
    written = json.loads((whole / "training.json").read_text())
    record = record_of_version_0_1(start, written["data"]["fingerprint"])
    shutil.copytree(whole / "checkpoint-2", tmp_path / "checkpoint-2")
    (tmp_path / "training.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="other settings: learning_rate was 0.001 and is now 0.002"):
        run(start, tmp_path, "learning_rate=2e-3")
    run(start, tmp_path)
    assert_same(tmp_path, whole)
    # Version 0.1.0 finds all keys in today's record, except for one that it does not compare.
    assert record.keys() == written.keys()
    assert record["stage"].keys() - written["stage"].keys() == {"on_bad_rows"}
    assert record["config"].keys() <= written["config"].keys()
    for key, value in record["config"].items():
        assert written["config"][key] == value


@pytest.mark.parametrize("share", [0.3, 0.75], ids=["weights", "optimizer"])
def test_full_disk_keeps_the_last_good_checkpoint(share, start, whole, tmp_path):
    shutil.copytree(whole / "checkpoint-2", tmp_path / "checkpoint-2")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond a share of the optimizer's state, the largest file: writing fails as on a full disk.
    size = (tmp_path / "checkpoint-2" / "optimizer.pt").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * share), limits[1]))
    try:
        with pytest.raises(
            OSError, match="cannot write .*checkpoint-4: .* last complete checkpoint is .*checkpoint-2: make room"
        ):
            run(start, tmp_path, "save_total_limit=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    run(start, tmp_path, "save_total_limit=1")
    assert_same(tmp_path, whole)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-5"]


def make_checkpoint(output, step, complete=True):
    folder = output / f"checkpoint-{step}"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "weights").write_bytes(b"12345678")
    if complete:
        mark_complete(folder)
    return folder


def test_checkpoints_that_lack_something_are_incomplete(tmp_path, caplog):
    good, truncated, missing, _ = (make_checkpoint(tmp_path, step, step < 100) for step in (9, 10, 11, 100))
    (truncated / "part" / "weights").write_bytes(b"1234")
    (missing / "part" / "weights").unlink()
    assert last_complete_checkpoint(tmp_path) == good
    assert "part/weights has 4 bytes instead of 8" in caplog.text
    assert "part/weights is missing" in caplog.text


def test_no_checkpoint_at_all(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


def test_rotation_removes_incomplete_ones_first_and_keeps_the_best(tmp_path):
    for step in (1, 2, 3, 10):
        make_checkpoint(tmp_path, step, complete=step != 3)
    rotate(tmp_path, None)
    assert len(checkpoints(tmp_path)) == 4
    rotate(tmp_path, 1, keep=tmp_path / "checkpoint-1")
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-10"]
