# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What stands beside a run's model: `training.json`, from which it can be repeated, and a picture of its curves."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset, IterableDataset
from matplotlib.figure import Figure
from trl import SFTConfig

from flashsloth.train.config import StageConfig


PACKAGES = ("flashsloth", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers")
DRAWN = {"loss": "loss (nats)", "learning_rate": "learning rate", "grad_norm": "gradient norm"}

Curves = dict[str, dict[str, list[tuple[int, float]]]]


def write_record(
    folder: Path,
    stage: StageConfig,
    config: SFTConfig,
    dataset: Dataset | IterableDataset,
    skipped: list[dict],
    num_processes: int,
    log_history: list[dict],
) -> None:
    """
    Writes `training.json` and `curves.png`.

    Args:
        folder (`Path`): Folder to write into.
        stage (`StageConfig`), config (`trl.SFTConfig`): The resolved settings.
        dataset (`Dataset` or `IterableDataset`): What was trained on.
        skipped (`list[dict]`): The broken rows that were left out.
        num_processes (`int`): Number of processes.
        log_history (`list[dict]`): What the trainer logged.
    """
    is_stream = isinstance(dataset, IterableDataset)
    record = {
        "stage": asdict(stage),
        "config": config.to_sanitized_dict(),
        "processes": num_processes,
        "seeds": {"seed": config.seed, "data_seed": config.data_seed},
        "data": {
            # A hash of the content of all transformations and files that made the set.
            "fingerprint": None if is_stream else dataset._fingerprint,
            "rows": None if is_stream else len(dataset),
            "skipped": skipped,
        },
        "versions": {package: version(package) for package in PACKAGES},
        "result": {key: value for entry in log_history[-1:] for key, value in entry.items()},
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    curves = {
        title: {key: [(entry["step"], entry[key]) for entry in log_history if key in entry]}
        for key, title in DRAWN.items()
    }
    draw(curves, folder / "curves.png")


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
