# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The loss curves of the recipe: those of every stage, in a figure file."""

import json

import pytest
from PIL import Image

from flashsloth.tiny.curves import read_curves
from flashsloth.train.record import draw


@pytest.fixture
def work(tmp_path):
    """The folder of a recipe that has run, with the logs of all stages; each logs other losses."""
    logs = {
        "tower": [{"step": 20, "seconds": 1.0, "picture": 3.0, "region": 9.0}, {"step": 40, "shape": 0.5}],
        "language_model": [{"step": 20, "loss": 4.0}, {"step": 40, "loss": 3.5}, {"step": 40, "count": 0.1}],
    }
    for stage, lines in logs.items():
        (tmp_path / f"{stage}_training").mkdir()
        (tmp_path / f"{stage}_training" / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for number, stage in enumerate(("query", "stage1", "stage2", "hd")):
        (tmp_path / stage).mkdir()
        history = [{"step": 1, "loss": 2.0 + number}, {"step": 2, "loss": 1.0 + number}, {"step": 2, "train_loss": 7}]
        (tmp_path / stage / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return tmp_path


def test_every_stage_has_its_losses(work):
    """The figures on validation data, and those of the whole run, are no points of the curves."""
    assert read_curves(work) == {
        "tower": {"picture": [(20, 3.0)], "region": [(20, 9.0)]},
        "language_model": {"loss": [(20, 4.0), (40, 3.5)]},
        "query": {"loss": [(1, 2.0), (2, 1.0)]},
        "stage1": {"loss": [(1, 3.0), (2, 2.0)]},
        "stage2": {"loss": [(1, 4.0), (2, 3.0)]},
        "hd": {"loss": [(1, 5.0), (2, 4.0)]},
    }


def test_a_backbone_that_was_copied_has_no_curve(work):
    (work / "tower_training" / "log.jsonl").unlink()
    assert list(read_curves(work)) == ["language_model", "query", "stage1", "stage2", "hd"]


def test_a_stage_that_was_not_trained_is_an_error(work):
    (work / "hd" / "trainer_state.json").unlink()
    with pytest.raises(FileNotFoundError, match="hd"):
        read_curves(work)


def test_the_figure_has_a_panel_for_each_stage(work):
    curves = read_curves(work)
    draw(curves, work / "curves.png")
    draw({"hd": curves["hd"]}, work / "one.png")
    (width, height), (one, _) = (Image.open(work / name).size for name in ("curves.png", "one.png"))
    assert width == 6 * one and height > 0
