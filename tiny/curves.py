# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The loss curves of all stages of the tiny recipe."""

import json
from pathlib import Path

from flashsloth.tiny.loop import LOG
from flashsloth.train.record import Curves


def read_curves(work: Path) -> Curves:
    """The logged losses by stage and name. A backbone that was copied into `work`, not trained there, has no log."""
    curves: Curves = {}
    for stage, names in {"tower": ("picture", "region"), "language_model": ("loss",)}.items():
        log = work / f"{stage}_training" / LOG
        if log.exists():
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            curves[stage] = {name: [(line["step"], line[name]) for line in lines if name in line] for name in names}
    for stage in ("query", "stage1", "stage2", "hd"):
        history = json.loads((work / stage / "trainer_state.json").read_text())["log_history"]
        curves[stage] = {"loss": [(line["step"], line["loss"]) for line in history if "loss" in line]}
    return curves
