# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Several processes train as one does, also when one of them has a batch without images. The shipped accelerate configs
are valid.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_worker
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from samples import make_model

import flashsloth
from flashsloth.train.config import DataSource, read_config
from flashsloth.train.data.sources import load_data
from flashsloth.train.sft import train_stage


WORKER = Path(distributed_worker.__file__)
ACCELERATE_CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs" / "accelerate"
TOLERANCE = 1e-4  # of losses
# Of weights: a third of one step of AdamW. Noise of one float32 rounding in the gradients of a single process moves
# `patch_norm.bias`, most of which cancels in the softmax as well, by up to 7e-5 in twenty steps.
WEIGHT_TOLERANCE = 3e-4
# A softmax does not change if all its scores grow alike: AdamW moves these parameters by rounding noise.
WITHOUT_GRADIENT = ("k_proj.bias", "pooling.fc2.bias")

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed, which the dev extra installs on Linux"
)


@pytest.fixture(scope="module")
def start(tmp_path_factory, processor) -> Path:
    folder = tmp_path_factory.mktemp("start")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def launch(*command, num_processes: int = distributed_worker.WORLD_SIZE) -> None:
    """Runs a script, or a module with `-m`, under torchrun on the CPU."""
    environment = {
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # --standalone picks a free port
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    result = subprocess.run(
        [*torchrun, *map(str, command)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-5000:]


def assert_same_training(losses, weights, expected_losses, expected_weights):
    assert losses == pytest.approx(expected_losses, abs=TOLERANCE)
    assert weights.keys() == expected_weights.keys()
    for name, weight in expected_weights.items():
        if not name.endswith(WITHOUT_GRADIENT):
            difference = (weights[name] - weight).abs().max().item()
            assert difference < WEIGHT_TOLERANCE, f"{name} differs by {difference}"


@pytest.fixture(scope="module")
def alone(start) -> tuple[list[float], dict[str, torch.Tensor]]:
    losses, weights = distributed_worker.train_alone(str(start))
    assert losses[-1] < losses[0] - 1
    return losses, weights


@pytest.mark.parametrize(
    "kind", ["fsdp2", pytest.param("zero2", marks=needs_deepspeed), pytest.param("zero3", marks=needs_deepspeed)]
)
def test_sharded_training_equals_one_process(kind, start, alone, tmp_path):
    launch(WORKER, kind, start, tmp_path)
    losses = json.loads((tmp_path / "losses.json").read_text())
    # From the file, which has the names that `flashsloth convert --to-original` and `quantize` read.
    assert_same_training(losses, load_file(tmp_path / "model.safetensors"), *alone)
    # The folder holds our code and names our class, not those that FSDP2 makes of them.
    assert {"modeling_flashsloth.py", "configuration_flashsloth.py"} == {file.name for file in tmp_path.glob("*.py")}
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (start, tmp_path))
    assert after["auto_map"] == before["auto_map"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["fsdp2", pytest.param("zero2", marks=needs_deepspeed), pytest.param("zero3", marks=needs_deepspeed)]
)
def test_sharded_training_of_an_adapter_equals_one_process(kind, start, tmp_path):
    launch(WORKER, kind, start, tmp_path, "lora")
    losses = json.loads((tmp_path / "losses.json").read_text())
    alone = distributed_worker.train_alone(str(start), "lora")
    assert_same_training(losses, load_file(tmp_path / "adapter_model.safetensors"), *alone)


def train(start, data, output, num_processes: int, **settings) -> list[dict]:
    """Trains and returns the log. Several processes run the command under torchrun."""
    settings = {
        "model": str(start),
        "data": data,
        "trainable": ["model", "lm_head"],
        "output_dir": str(output),
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": distributed_worker.LEARNING_RATE,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        **settings,
    }
    config = output.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings))
    if num_processes == 1:
        train_stage(read_config(config, []))
    else:
        launch("-m", "flashsloth", "train", config, num_processes=num_processes)
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def train_by_one_and_by_two(start, data, tmp_path, **settings):
    runs = []
    for num_processes in (distributed_worker.WORLD_SIZE, 1):
        log = train(start, data, tmp_path / f"by {num_processes}", num_processes, **settings)
        weights = load_file(tmp_path / f"by {num_processes}" / "model" / "model.safetensors")
        runs += [[entry["loss"] for entry in log], weights]
    return runs


def test_train_command_under_torchrun_equals_one_process(start, tmp_path):
    """DDP: two processes on one batch each, against one process that accumulates two."""
    data = tmp_path / "data.jsonl"
    (tmp_path / "images").mkdir()
    lines = []
    for step in range(distributed_worker.STEPS):
        for rank in range(distributed_worker.WORLD_SIZE):
            for row in distributed_worker.rows(step, rank):
                files = [f"{len(lines)}_{index}.png" for index in range(len(row["images"]))]
                for file, image in zip(files, row["images"], strict=True):
                    image.save(tmp_path / "images" / file)
                lines.append(json.dumps({"id": str(len(lines)), "images": files, "messages": row["messages"]}))
    data.write_text("\n".join(lines))
    runs = train_by_one_and_by_two(
        start,
        {"path": str(data), "image_folder": str(tmp_path / "images")},
        tmp_path,
        train_sampling_strategy="sequential",  # so that one process gets the batches without images
        max_steps=distributed_worker.STEPS,
    )
    assert len(runs[0]) == distributed_worker.STEPS
    assert_same_training(*runs)


def write_rows(file: Path, count: int) -> None:
    rows = [{"prompt": f"What is {index}?", "completion": "A number. " * (index + 1)} for index in range(count)]
    file.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("order", ["random", pytest.param("group_by_length", marks=pytest.mark.slow)])
def test_rows_that_do_not_fill_the_last_batch_are_trained_on_once(order, start, tmp_path):
    """Seven rows in steps of four, twice: the second step of an epoch has three, of which one process gets one."""
    write_rows(tmp_path / "rows.jsonl", 7)
    settings = {"num_train_epochs": 2, "train_sampling_strategy": order}
    runs = train_by_one_and_by_two(start, str(tmp_path / "rows.jsonl"), tmp_path, **settings)
    assert len(runs[0]) == 4
    assert_same_training(*runs)


def test_processes_go_on_together_with_unequal_parts_of_a_stream(start, processor, tmp_path):
    """Files of four and eight rows, one for each process: the one is read twice while the other is read once."""
    (tmp_path / "rows").mkdir()
    tokens = []
    for index, count in enumerate((4, 8)):
        file = tmp_path / "rows" / f"{index}.jsonl"
        write_rows(file, count)
        dataset = load_data([DataSource(str(file))], 0)
        ids = processor.apply_chat_template(dataset["messages"][:], tokenize=True, return_dict=True)["input_ids"]
        tokens.append(sum(map(len, ids)))
    data = {"path": str(tmp_path / "rows" / "*.jsonl"), "streaming": True}
    log = train(start, data, tmp_path / "out", distributed_worker.WORLD_SIZE, max_steps=6)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert log[3]["num_tokens"] == 2 * tokens[0] + tokens[1]


@pytest.mark.parametrize(
    ("name", "kind", "stage"),
    [
        ("ddp", DistributedType.MULTI_GPU, None),
        ("fsdp2", DistributedType.FSDP, None),
        ("zero2", DistributedType.DEEPSPEED, 2),
        ("zero3", DistributedType.DEEPSPEED, 3),
        ("zero3_offload", DistributedType.DEEPSPEED, 3),
    ],
)
def test_accelerate_configs_are_for_a_node_of_eight_gpus(name, kind, stage):
    file = ACCELERATE_CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(file))  # refuses unknown keys
    assert (config.distributed_type, config.num_machines, config.num_processes) == (kind, 1, 8)
    assert config.deepspeed_config.get("zero_stage") == stage
    assert config.mixed_precision == "bf16"
    # Keys within fsdp_config and deepspeed_config are options of the launch command, which ignores others silently.
    options = {action.dest for action in launch_command_parser()._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= options
