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
from transformers import TrainerCallback, TrainerState, TrainingArguments

from flashsloth.folders.provenance import CURVES_FILE, TRAINING_FILE
from flashsloth.train.config import StageConfig
from flashsloth.train.data.broken_rows import skipped_rows
from flashsloth.train.evaluation import EVAL_FOLDER
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
# The panel that each key of the log is drawn in.
PANELS = {
    "loss": "loss (nats)",
    "eval_loss": "loss (nats)",
    "eval_exact_match": "exact match",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
}
OPTIONAL_PANELS = ("exact match",)

Curves = dict[str, dict[str, list[tuple[int, float]]]]


class RunRecord(TrainerCallback):
    """
    Writes `training.json` and `curves.png` when a run begins, with each checkpoint, and at the end.

    Args:
        stage (`StageConfig`): The settings of the run.
        dataset (`Dataset` or `IterableDataset`): The rows that it trains on.
        fingerprint (`str`): The [`~flashsloth.train.data.fingerprint.fingerprint`] of all rows of its data.
        eval_dataset (`Dataset`, *optional*): The rows that it is evaluated on.
        eval_fingerprint (`str`, *optional*): The fingerprint of its `eval_data`.

    Raises:
        OSError: If a file cannot be written.
    """

    def __init__(
        self,
        stage: StageConfig,
        dataset: Dataset | IterableDataset,
        fingerprint: str,
        eval_dataset: Dataset | None = None,
        eval_fingerprint: str | None = None,
    ):
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
        if eval_dataset is not None:
            self.record["data"]["evaluation"] = {"fingerprint": eval_fingerprint, "rows": len(eval_dataset)}

    def on_train_begin(self, args, state, control, **kwargs):
        self._write(args, state)

    def on_save(self, args, state, control, **kwargs):
        self._write(args, state)

    def on_train_end(self, args, state, control, **kwargs):
        self._write(args, state)

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        data = self.record["data"] | {"skipped": skipped_rows(self.folder)}
        if "evaluation" in data:
            data["evaluation"] = data["evaluation"] | {"skipped": skipped_rows(self.folder / EVAL_FOLDER)}
        record = self.record | {"data": data, "result": dict(*state.log_history[-1:])}
        if state.best_global_step:
            record["best"] = {
                "step": state.best_global_step,
                "metric": args.metric_for_best_model,
                "value": state.best_metric,
            }
        curves = {title: {} for title in PANELS.values()}
        for key, title in PANELS.items():
            curves[title][key] = [(entry["step"], entry[key]) for entry in state.log_history if key in entry]
        for title in OPTIONAL_PANELS:
            if not any(curves[title].values()):
                del curves[title]
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
