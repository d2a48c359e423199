# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The shipped checkpoints: complete, small, and on a sample of questions as good as docs/models.md says."""

import json
import re
from collections import Counter

import pytest

from flashsloth.folders.provenance import read_provenance
from flashsloth.tiny.data import make_dataset
from flashsloth.tiny.evaluate import (
    CHECKPOINTS,
    IMAGES,
    SMALL_TEXT,
    Answers,
    Outcome,
    accuracy,
    answers_table,
    by_kind,
    examine,
    load,
    table,
    write_evaluation,
)
from flashsloth.tiny.questions import KINDS


NAMES = ("flashsloth-tiny", "flashsloth-tiny-hd")


@pytest.fixture(scope="module")
def loaded():
    """Model and processor of both shipped checkpoints."""
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
        "embedded_query_flashsloth.py",
        "modeling_flashsloth.py",
        "processing_flashsloth.py",
        "image_processing_flashsloth.py",
        "image_reading_flashsloth.py",
        "evaluation.json",
        "provenance.json",
    }
    assert sum(file.stat().st_size for file in (CHECKPOINTS / name).iterdir()) <= 16e6


def test_table_shows_every_kind_once():
    outcomes = [Outcome("color", "red", "red"), Outcome("color", "red", "blue"), Outcome("word", "cat", "cat")]
    assert by_kind(outcomes) == {"all": pytest.approx(200 / 3), "color": 50, "word": 100}
    lines = table({"standard": by_kind(outcomes), "HD": {"all": 90.0, "small text": 80.0}}).splitlines()
    assert lines[0] == "| questions | standard | HD |"
    assert "| all | 66.7 | 90.0 |" in lines and "| small text |  | 80.0 |" in lines


def test_scores_are_saved_for_the_model_card_and_the_control_of_grey_images_is_not(tmp_path):
    right, wrong = Outcome("color", "red", "red"), Outcome("word", "cat", "dog")
    answers = Answers(exam=[right, right, wrong], grey=[wrong], small_text=[right, wrong])
    write_evaluation(tmp_path, answers, "heldout", "python -m exam")
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    scores = {(entry["dataset"]["name"], entry["dataset"]["config"]): (entry["value"], entry["n"]) for entry in saved}
    assert scores == {
        (IMAGES, "all"): (66.7, 3),
        (IMAGES, "color"): (100.0, 2),
        (IMAGES, "word"): (0.0, 1),
        (SMALL_TEXT, "all"): (50.0, 2),
    }
    assert {(entry["origin"], entry["command"]) for entry in saved} == {("measured", "python -m exam")}
    assert "| small text | 50.0 |  |" in answers_table({"standard": answers})


def test_shipped_scores_are_those_of_the_table():
    page = (CHECKPOINTS.parent / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| ([a-z ]+) \| ([\d.]+) \| ([\d.]*) \| ([\d.]+) \| ([\d.]*) \|$", page, re.M)
    table = {kind: values for kind, *values in rows}
    assert list(table) == ["all", *KINDS, "small text"]
    counts = Counter(list(KINDS)[index % len(KINDS)] for index in range(1000)) | {"all": 1000}
    for name, column in (("flashsloth-tiny", 0), ("flashsloth-tiny-hd", 2)):
        saved = json.loads((CHECKPOINTS / name / "evaluation.json").read_text())
        scores = {(e["dataset"]["name"], e["dataset"]["config"]): (e["value"], e["n"]) for e in saved}
        wanted = {(SMALL_TEXT, "all"): (float(table["small text"][column]), 300)}
        for kind in ("all", *KINDS):
            wanted[IMAGES, kind] = (float(table[kind][column]), counts[kind])
        assert scores == wanted


def test_provenance_has_every_step_from_the_beginning():
    for name, stages in (("flashsloth-tiny", 3), ("flashsloth-tiny-hd", 4)):
        commands = [entry["command"] for entry in read_provenance(CHECKPOINTS / name)]
        assert commands == ["train", "train", "compose", *["train"] * stages]


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_the_heldout_questions_is_answered_and_not_without_the_image(loaded, name):
    exam = make_dataset("exam", "heldout", 90)
    assert accuracy(examine(*loaded[name], exam)) >= 85  # docs/models.md has the figures on all 1,000
    assert accuracy(examine(*loaded[name], exam.select(range(45)), grey=True)) <= 45


def test_hd_reads_text_that_is_too_small_for_the_standard_view(loaded):
    small_text = make_dataset("small_text", "heldout", 30)
    standard, hd = (accuracy(examine(*loaded[name], small_text)) for name in NAMES)
    assert hd >= standard + 20
