# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The files that a run writes beside its checkpoints and its model: `training.json`, the record from which the run can be
repeated, and `curves.png`, a figure of its curves.
"""

import contextlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from matplotlib.figure import Figure
from transformers import TrainerCallback, TrainerState

from flashsloth.folders.model_folder import CURVES_FILE, TRAINING_FILE
from flashsloth.train.config import StageConfig
from flashsloth.train.data.broken_rows import skipped_rows
from flashsloth.train.resume import clear_write_errors, settings_record


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
PANELS = {"loss": "loss (nats)", "learning_rate": "learning rate", "grad_norm": "gradient norm"}

Curves = dict[str, dict[str, list[tuple[int, float]]]]


class RunRecord(TrainerCallback):
    """
    Writes `training.json` and `curves.png` when a run begins, with each checkpoint, and at the end.

    Args:
        stage (`StageConfig`): The settings of the run.
        dataset (`Dataset` or `IterableDataset`): The rows that it trains on.
        fingerprint (`str`): The [`~flashsloth.train.data.fingerprint.fingerprint`] of all rows of its data.

    Raises:
        OSError: If a file cannot be written.
    """

    def __init__(self, stage: StageConfig, dataset: Dataset | IterableDataset, fingerprint: str):
        self.folder = Path(stage.output_dir)
        self.record = settings_record(stage) | {
            "seeds": {"seed": stage.seed, "data_seed": stage.data_seed},
            "data": {
                "fingerprint": fingerprint,
                "rows": None if isinstance(dataset, IterableDataset) else len(dataset),
            },
            "versions": _versions(),
            "device": torch.cuda.get_device_name() if stage.device.type == "cuda" else stage.device.type,
        }

    def on_train_begin(self, args, state, control, **kwargs):
        self._write(state)

    def on_save(self, args, state, control, **kwargs):
        self._write(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._write(state)

    def _write(self, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        data = self.record["data"] | {"skipped": skipped_rows(self.folder)}
        record = self.record | {"data": data, "result": dict(*state.log_history[-1:])}
        curves = {
            title: {key: [(entry["step"], entry[key]) for entry in state.log_history if key in entry]}
            for key, title in PANELS.items()
        }
        with clear_write_errors(self.folder / TRAINING_FILE):
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_whole(record, self.folder / TRAINING_FILE)
            draw(curves, self.folder / CURVES_FILE)


def _write_whole(record: dict[str, Any], file: Path) -> None:
    unfinished = file.with_name(f"{file.name}.new")
    unfinished.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(file)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # some are optional
            versions[package] = version(package)
    return versions


def draw(curves: Curves, file: Path) -> None:
    """
    Draws curves to a PNG file: one panel for each title, one line for each name in it.

    Args:
        curves (`dict[str, dict[str, list[tuple[int, float]]]]`): The points (step, value) of each title and name.
        file (`Path`): The file to write.
    """
    # pyplot would pick a backend for the whole process.
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
