# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What training tests share."""

from pathlib import Path

import pytest
from stages import MINIMAL, run

from flashsloth.train import record


@pytest.fixture(autouse=True)
def blank_curves(monkeypatch) -> None:
    """
    Skips drawing the curves of a run, which takes longer than the few steps of a test. Runs in other processes, and
    those of module-scoped fixtures, draw them.
    """
    monkeypatch.setattr(record, "draw", lambda curves, file: None)


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> Path:
    """The output folder of a run of stage 2 with a checkpoint after each step."""
    output = tmp_path_factory.mktemp("finished")
    run("stage2", start, output, "save_steps=1", "learning_rates={model.pooling: 1e-3}")
    return output


@pytest.fixture
def file(tmp_path) -> Path:
    """The shortest YAML file of a stage."""
    path = tmp_path / "stage.yaml"
    path.write_text(MINIMAL)
    return path
