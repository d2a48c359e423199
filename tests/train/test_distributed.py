# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Several processes train as one does, also when one of them has a batch without images. The shipped accelerate configs
are valid.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_worker
import pytest
import torch
import train_stages
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

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(
    not HAS_DEEPSPEED, reason="needs deepspeed, which the dev extra installs on Linux"
)
KINDS = ["fsdp2", "zero2", "zero3"] if HAS_DEEPSPEED else ["fsdp2"]
PARAMETRIZED_KINDS = ["fsdp2", *(pytest.param(kind, marks=needs_deepspeed) for kind in ("zero2", "zero3"))]


@pytest.fixture(scope="module")
def start(tmp_path_factory, processor) -> Path:
    """The folder of a random model that all trainings start from."""
    folder = tmp_path_factory.mktemp("start")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def launch(*command) -> None:
    """Runs a script under torchrun on the CPU."""
    environment = {
        "ACCELERATE_USE_CPU": "true",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # --standalone picks a free port
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={distributed_worker.WORLD_SIZE}",
    ]
    result = subprocess.run(
        [*torchrun, *map(str, command)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
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
    """Losses and weights of one process."""
    losses, weights = distributed_worker.train_alone(start)
    assert losses[-1] < losses[0] - 1
    return losses, weights


@pytest.fixture(scope="module")
def sharded(start, tmp_path_factory) -> Path:
    """The folder of the trainings by two processes, by kind of sharding."""
    folder = tmp_path_factory.mktemp("sharded")
    launch(WORKER, start, folder, *KINDS)
    return folder


@pytest.mark.parametrize("kind", PARAMETRIZED_KINDS)
def test_sharded_training_equals_one_process(kind, start, alone, sharded):
    folder = sharded / kind
    losses = json.loads((folder / "losses.json").read_text())
    # From the file, which has the names that `flashsloth convert --to-original` and `quantize` read.
    assert_same_training(losses, load_file(folder / "model.safetensors"), *alone)
    # The folder holds our code and names our class, not those that FSDP2 makes of them.
    assert {"modeling_flashsloth.py", "embedded_query_flashsloth.py", "configuration_flashsloth.py"} == {
        file.name for file in folder.glob("*.py")
    }
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (start, folder))
    assert after["auto_map"] == before["auto_map"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARAMETRIZED_KINDS)
def test_sharded_training_of_an_adapter_equals_one_process(kind, start, tmp_path):
    launch(WORKER, "--lora", start, tmp_path, kind)
    losses = json.loads((tmp_path / kind / "losses.json").read_text())
    alone = distributed_worker.train_alone(start, lora=True)
    assert_same_training(losses, load_file(tmp_path / kind / "adapter_model.safetensors"), *alone)


def write_images_and_texts(folder: Path) -> dict:
    """Conversations of the loop above; a file of their own holds each image."""
    (folder / "images").mkdir()
    lines = []
    for step in range(distributed_worker.STEPS):
        for rank in range(distributed_worker.WORLD_SIZE):
            for row in distributed_worker.rows(step, rank):
                files = [f"{len(lines)}_{index}.png" for index in range(len(row["images"]))]
                for file, image in zip(files, row["images"], strict=True):
                    image.save(folder / "images" / file)
                lines.append(json.dumps({"id": str(len(lines)), "images": files, "messages": row["messages"]}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    return {
        "data": {"path": str(folder / "data.jsonl"), "image_folder": str(folder / "images")},
        "train_sampling_strategy": "sequential",  # so that one process gets the batches without images
        "max_steps": distributed_worker.STEPS,
    }


def write_rows(file: Path, count: int) -> None:
    rows = [{"prompt": f"What is {index}?", "completion": "A number. " * (index + 1)} for index in range(count)]
    file.write_text("\n".join(map(json.dumps, rows)))


def write_seven_rows(folder: Path, order: str) -> dict:
    """Two epochs of seven rows in steps of four: the second step has three, of which one process gets one."""
    write_rows(folder / "rows.jsonl", 7)
    return {"data": str(folder / "rows.jsonl"), "num_train_epochs": 2, "train_sampling_strategy": order}


def write_stream(folder: Path) -> dict:
    """Files of four and eight rows, one for each process: the one is read twice while the other is read once."""
    for count in (4, 8):
        write_rows(folder / f"{count}.jsonl", count)
    return {"data": {"path": str(folder / "*.jsonl"), "streaming": True}, "max_steps": 6}


def write_evaluated(folder: Path) -> dict:
    """Five rows to evaluate on, which two processes cannot share out evenly."""
    write_rows(folder / "held.jsonl", 5)
    evaluation = {"eval_data": str(folder / "held.jsonl"), "eval_exact_match": True, "load_best_model_at_end": True}
    saving = {"save_strategy": "steps", "save_steps": 1, "per_device_eval_batch_size": 2, "eval_on_start": True}
    return write_seven_rows(folder, "random") | evaluation | saving


# What writes the data of each run, and returns its settings.
RUNS = {
    "images and texts": write_images_and_texts,
    "random order": functools.partial(write_seven_rows, order="random"),
    "grouped by length": functools.partial(write_seven_rows, order="group_by_length"),
    "stream": write_stream,
    "evaluated": write_evaluated,
}


@pytest.fixture(scope="module")
def by_two(start, tmp_path_factory) -> Path:
    """The folder of all runs, trained by two processes: `NAME/by two` of each, beside its config and data."""
    common = {
        "model": str(start),
        "trainable": ["model", "lm_head"],
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": distributed_worker.LEARNING_RATE,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    root = tmp_path_factory.mktemp("runs")
    configs = []
    for name, write_data in RUNS.items():
        (root / name).mkdir()
        settings = {**common, "output_dir": str(root / name / "by two"), **write_data(root / name)}
        configs.append(root / name / "by two.yaml")
        configs[-1].write_text(yaml.safe_dump(settings))
    launch(train_stages.__file__, *configs)
    return root


def read_log(output: Path) -> list[dict]:
    """The entries of a run's log, one for each step."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


@pytest.mark.parametrize(
    ("name", "num_steps"),
    [("images and texts", distributed_worker.STEPS), ("random order", 4), ("grouped by length", 4)],
)
def test_train_command_under_torchrun_equals_one_process(name, num_steps, by_two, tmp_path):
    """DDP: two processes on one batch each, against one process that accumulates two."""
    outputs = by_two / name / "by two", tmp_path / "by one"
    train_stage(read_config(outputs[0].with_suffix(".yaml"), [f"output_dir={outputs[1]}"]))
    runs = []
    for output in outputs:
        runs += [[entry["loss"] for entry in read_log(output)], load_file(output / "model" / "model.safetensors")]
    assert len(runs[0]) == num_steps
    assert_same_training(*runs)


def test_two_processes_measure_what_one_does(by_two, tmp_path):
    """Each row once, however they are shared out, and all load the same best checkpoint."""
    outputs = by_two / "evaluated" / "by two", tmp_path / "by one"
    train_stage(read_config(outputs[0].with_suffix(".yaml"), [f"output_dir={outputs[1]}"]))
    found = []
    for output in outputs:
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        found.append([entry for entry in history if "eval_loss" in entry])
        best = json.loads((output / "training.json").read_text())["best"]["step"]
        model, checkpoint = (
            load_file(output / name / "model.safetensors") for name in ("model", f"checkpoint-{best}")
        )
        assert all(torch.equal(model[key], checkpoint[key]) for key in model)
    assert [entry["step"] for entry in found[0]] == [0, 1, 2, 3, 4]
    for by_two_processes, by_one in zip(*found, strict=True):
        assert by_two_processes["eval_loss"] == pytest.approx(by_one["eval_loss"], abs=TOLERANCE)
        assert by_two_processes["eval_exact_match"] == by_one["eval_exact_match"]


def test_processes_go_on_together_with_unequal_parts_of_a_stream(by_two, processor):
    num_tokens = []
    for count in (4, 8):
        dataset = load_data([DataSource(str(by_two / "stream" / f"{count}.jsonl"))], 0)
        ids = processor.apply_chat_template(dataset["messages"][:], tokenize=True, return_dict=True)["input_ids"]
        num_tokens.append(sum(map(len, ids)))
    log = read_log(by_two / "stream" / "by two")
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert log[3]["num_tokens"] == 2 * num_tokens[0] + num_tokens[1]


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
