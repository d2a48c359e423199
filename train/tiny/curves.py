# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The loss curves of all stages of the tiny checkpoint, in one picture."""

import json
from pathlib import Path

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (the backend must be chosen before)


def read_curves(work: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The logged losses by stage and name, each a list of (step, loss)."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for stage, names in {"tower": ("picture", "region"), "language_model": ("loss",)}.items():
        lines = (work / f"{stage}_training" / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        curves[stage] = {name: [(r["step"], r[name]) for r in records if name in r] for name in names}
    for stage in ("stage1", "stage2", "hd"):
        history = json.loads((work / stage / "trainer_state.json").read_text())["log_history"]
        curves[stage] = {"loss": [(record["step"], record["loss"]) for record in history if "loss" in record]}
    return curves


def draw_curves(work: Path, file: Path) -> None:
    """Draws the curves of every stage below `work` to a PNG file."""
    curves = read_curves(work)
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), layout="constrained")
    for axis, (stage, losses) in zip(axes, curves.items(), strict=True):
        for name, points in losses.items():
            axis.plot(*zip(*points, strict=True), label=name)
        axis.set(title=stage, xlabel="step", yscale="log")
        axis.legend()
    axes[0].set_ylabel("loss (nats)")
    figure.savefig(file, dpi=110)
    plt.close(figure)
