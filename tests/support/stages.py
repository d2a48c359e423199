# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Stages of training: shipped ones, made small for the random model, the shortest file, and stages to plan."""

from pathlib import Path

from samples import QUICK_RUN

import flashsloth
from flashsloth.train.config import DataSource, StageConfig, read_config
from flashsloth.train.sft import train_stage


CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs"
MINIMAL = "{model: m, data: rows.json, output_dir: out, trainable: [lm_head], use_cpu: true, report_to: none}"
STAGE_1 = ["model.pooling", "model.multi_modal_projector"]
STAGE_2 = [*STAGE_1, "model.query_tokens", "model.embedded_query", "model.language_model", "lm_head"]


def settings(name, start, output, *overrides) -> StageConfig:
    """The settings of a shipped stage, for three steps of the random model."""
    return read_config(
        CONFIGS / f"{name}.yaml",
        [
            f"model={start / 'model'}",
            f"data={start / 'data'}",
            f"output_dir={output}",
            "max_steps=3",
            *QUICK_RUN,
            *overrides,
        ],
    )


def run(name, start, output, *overrides) -> Path:
    """Trains a shipped stage for three steps; returns the folder of the model."""
    return train_stage(settings(name, start, output, *overrides))


def stage(trainable=(), **settings) -> StageConfig:
    """A stage that trains these modules, on a model and data that do not exist."""
    return StageConfig(
        **{"model": "m", "data": [DataSource("d")], "output_dir": "out", "use_cpu": True, **settings},
        trainable=list(trainable),
    )
