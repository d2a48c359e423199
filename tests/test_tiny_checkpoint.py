# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The shipped checkpoints: complete, small, and as good as the README's table says, on a sample of it."""

import pytest

from flashsloth.train.tiny.data import make_dataset
from flashsloth.train.tiny.evaluate import CHECKPOINTS, Outcome, accuracy, by_kind, examine, load, table


NAMES = ("flashsloth-tiny", "flashsloth-tiny-hd")


@pytest.fixture(scope="module")
def loaded():
    return {name: load(CHECKPOINTS / name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_complete_and_small(name):
    files = {file.name for file in (CHECKPOINTS / name).iterdir()}
    assert files >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "configuration_flashsloth.py",
        "modeling_flashsloth.py",
        "processing_flashsloth.py",
        "image_processing_flashsloth.py",
    }
    assert sum(file.stat().st_size for file in (CHECKPOINTS / name).iterdir()) <= 16e6


def test_table_shows_every_kind_once():
    outcomes = [Outcome("color", "red", "red"), Outcome("color", "red", "blue"), Outcome("word", "cat", "cat")]
    assert by_kind(outcomes) == {"all": pytest.approx(200 / 3), "color": 50, "word": 100}
    lines = table({"standard": by_kind(outcomes), "HD": {"all": 90.0, "small text": 80.0}}).splitlines()
    assert lines[0] == "| questions | standard | HD |"
    assert "| all | 66.7 | 90.0 |" in lines and "| small text |  | 80.0 |" in lines


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_the_heldout_questions_is_answered_and_not_without_the_picture(loaded, name):
    exam = make_dataset("exam", "heldout", 90)
    assert accuracy(examine(*loaded[name], exam)) >= 85  # the README has the figures on all 1,000
    assert accuracy(examine(*loaded[name], exam, grey=True)) <= 45


def test_hd_reads_text_that_is_too_small_for_the_standard_view(loaded):
    small_text = make_dataset("small_text", "heldout", 30)
    standard, hd = (accuracy(examine(*loaded[name], small_text)) for name in NAMES)
    assert hd >= standard + 20
