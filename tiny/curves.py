# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The loss curves of all stages of the tiny checkpoint."""

import json
from pathlib import Path

from flashsloth.train.record import Curves


def read_curves(work: Path) -> Curves:
    """The logged losses by stage and name; a backbone that was brought along instead of trained has no log."""
    curves: Curves = {}
    for stage, names in {"tower": ("picture", "region"), "language_model": ("loss",)}.items():
        log = work / f"{stage}_training" / "log.jsonl"
        if log.exists():
            records = [json.loads(line) for line in log.read_text().splitlines()]
            curves[stage] = {name: [(r["step"], r[name]) for r in records if name in r] for name in names}
    for stage in ("query", "stage1", "stage2", "hd"):
        history = json.loads((work / stage / "trainer_state.json").read_text())["log_history"]
        curves[stage] = {"loss": [(record["step"], record["loss"]) for record in history if "loss" in record]}
    return curves
