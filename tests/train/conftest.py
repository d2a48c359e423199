# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What training tests share."""

import pytest

from flashsloth.train import record


@pytest.fixture(autouse=True)
def blank_curves(monkeypatch) -> None:
    """
    Skips drawing the curves of a run, which takes longer than the few steps of a test. Runs in other processes, and
    those of module-scoped fixtures, draw them.
    """
    monkeypatch.setattr(record, "draw", lambda curves, file: None)
