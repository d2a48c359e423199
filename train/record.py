# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What stands beside a run's checkpoints and model: `training.json`, from which the run can be repeated, and a picture of
its curves. Whoever goes on with the run is held to what it says.
"""

import contextlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from datasets import Dataset, IterableDataset
from matplotlib.figure import Figure
from transformers import TrainerCallback
from trl import SFTConfig

from flashsloth.train.config import StageConfig
from flashsloth.train.data.validate import skipped_rows
from flashsloth.train.resume import clear_write_errors


RECORD_FILE = "training.json"
CURVES_FILE = "curves.png"
PACKAGES = (
    "flashsloth",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "pillow",
    "deepspeed",
    "bitsandbytes",
)
DRAWN = {"loss": "loss (nats)", "learning_rate": "learning rate", "grad_norm": "gradient norm"}

# What does not decide what a stage learns: of data, that its rows are the same is told from its fingerprint.
FREE_OF_STAGE = ("attn_implementation", "on_broken_rows", "global_batch_size")
# What does, of the fields of `trl.SFTConfig`. How it is computed, logged and saved may change before a run goes on.
DECISIVE = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "average_tokens_across_devices",
    "data_seed",
    "dataloader_drop_last",
    "label_smoothing_factor",
    "learning_rate",
    "loss_type",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_length",
    "max_steps",
    "neftune_noise_alpha",
    "num_train_epochs",
    "optim",
    "optim_args",
    "optim_target_modules",
    "seed",
    "shuffle_dataset",
    "train_sampling_strategy",
    "truncation_mode",
    "warmup_steps",
    "weight_decay",
)

REMEDY = "Go on with what it was started with, or choose another output_dir."
ALL_THE_SAME = "(Without the file training.json there, it goes on all the same.)"

Curves = dict[str, dict[str, list[tuple[int, float]]]]


class RunRecord(TrainerCallback):
    """
    Writes `training.json` and `curves.png` when a run begins, with each checkpoint, and at the end.

    Args:
        stage (`StageConfig`), config (`trl.SFTConfig`): The resolved settings.
        dataset (`Dataset` or `IterableDataset`): What is trained on.
        fingerprint (`str`): What [`~flashsloth.train.data.fingerprint.fingerprint`] says of all rows.

    Raises:
        OSError: If a file cannot be written.
    """

    def __init__(self, stage: StageConfig, config: SFTConfig, dataset: Dataset | IterableDataset, fingerprint: str):
        self.folder = Path(config.output_dir)
        self.record = _settings(stage, config) | {
            "seeds": {"seed": config.seed, "data_seed": config.data_seed},
            "data": {
                "fingerprint": fingerprint,
                "rows": None if isinstance(dataset, IterableDataset) else len(dataset),
            },
            "versions": _versions(),
            "device": torch.cuda.get_device_name() if config.device.type == "cuda" else config.device.type,
        }

    def on_train_begin(self, args, state, control, **kwargs):
        self._write(state)

    def on_save(self, args, state, control, **kwargs):
        self._write(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._write(state)

    def _write(self, state) -> None:
        if not state.is_world_process_zero:
            return
        data = self.record["data"] | {"skipped": skipped_rows(self.folder)}
        record = self.record | {"data": data, "result": dict(*state.log_history[-1:])}
        curves = {
            title: {key: [(entry["step"], entry[key]) for entry in state.log_history if key in entry]}
            for key, title in DRAWN.items()
        }
        with clear_write_errors(self.folder / RECORD_FILE):
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = self.folder / f"{RECORD_FILE}.new"
            unfinished.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            unfinished.replace(self.folder / RECORD_FILE)
            draw(curves, self.folder / CURVES_FILE)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # some are optional
            versions[package] = version(package)
    return versions


def refuse_other_settings(stage: StageConfig, config: SFTConfig, is_finished: bool = False) -> None:
    """
    Raises:
        ValueError: If the run in the output folder was started with other settings that decide what it learns.
    """
    before = _read(config)
    if before is None:
        return
    before, now = _decisive(before), _decisive(json.loads(json.dumps(_settings(stage, config))))
    changed = [key for key in before if key in now and before[key] != now[key]]
    if changed:
        differences = ", ".join(f"{key} was {before[key]} and is now {now[key]}" for key in changed)
        remedy = "Choose another output_dir." if is_finished else f"{REMEDY} {ALL_THE_SAME}"
        raise ValueError(f"the run in {config.output_dir} was started with other settings: {differences}. {remedy}")


def refuse_other_data(fingerprint: str, config: SFTConfig) -> None:
    """
    Raises:
        ValueError: If the run in the output folder was started with other rows.
    """
    before = _read(config)
    if before is not None and before["data"].get("fingerprint") != fingerprint:
        raise ValueError(
            f"the run in {config.output_dir} was started with other data under these names. {REMEDY} {ALL_THE_SAME}"
        )


def _read(config: SFTConfig) -> dict | None:
    file = Path(config.output_dir) / RECORD_FILE
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, which tells how the run was started, is damaged: {error}. {ALL_THE_SAME}"
        ) from error


def _settings(stage: StageConfig, config: SFTConfig) -> dict:
    return {"stage": asdict(stage), "config": config.to_sanitized_dict(), "processes": config.world_size}


def _decisive(record: dict) -> dict:
    """
    What decides what is learned. Folders may move: of a model's path the last two parts count, as most end in "model",
    of data the last one, since its rows are compared as well.
    """
    stage, config = record["stage"], record["config"]
    settings = {key: value for key, value in stage.items() if key not in FREE_OF_STAGE}
    settings["model"] = "/".join(Path(stage["model"]).parts[-2:])
    settings["trainable"] = sorted(stage["trainable"])
    del settings["data"]
    settings["sources of data"] = len(stage["data"])
    for index, source in enumerate(stage["data"]):
        source = source | {"path": Path(source["path"]).name}
        settings |= {f"data[{index}].{key}": value for key, value in source.items() if key != "image_folder"}
    settings |= {key: config[key] for key in DECISIVE if key in config}
    if config["max_steps"] > 0:
        del settings["num_train_epochs"]
    rows = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * record["processes"]
    settings["rows per step"] = rows
    if any(source["streaming"] for source in stage["data"]):  # each reader of a stream has its own part of it
        settings |= {"processes": record["processes"], "dataloader_num_workers": config["dataloader_num_workers"]}
    return settings


def draw(curves: Curves, file: Path) -> None:
    """
    Draws curves to a PNG file: one panel for each title, one line for each name in it.

    Args:
        curves (`dict[str, dict[str, list[tuple[int, float]]]]`): For each title and name the points (step, value).
        file (`Path`): File to write.
    """
    # Not by pyplot, which would pick a backend for the whole process.
    figure = Figure(figsize=(4 * len(curves), 3.2), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)
    for axis, (title, lines) in zip(axes[0], curves.items(), strict=True):
        for name, points in lines.items():
            if points:
                axis.plot(*zip(*points, strict=True), label=name)
        # A warm-up starts at a learning rate of 0, which has no logarithm.
        is_positive = all(value > 0 for points in lines.values() for _, value in points)
        axis.set(title=title, xlabel="step", yscale="log" if is_positive else "linear")
        if len(axis.lines) > 1:
            axis.legend()
    figure.savefig(file, dpi=110)
