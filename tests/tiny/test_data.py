# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The sets of rows: what each stage learns from, and the exam."""

import hashlib

import pytest

from flashsloth.tiny.data import ROWS, make_dataset
from flashsloth.tiny.questions import KINDS
from flashsloth.tiny.scenes import CANVAS, HELDOUT_PAIRS


def test_rows_are_those_of_the_shipped_checkpoints():
    """Other words would make other checkpoints from the same recipe."""
    digest = hashlib.sha256()
    for name in ROWS:
        for index in range(20):
            digest.update(repr(ROWS[name]("train", index)["messages"]).encode())
    assert digest.hexdigest()[:16] == "67cb6bbecd1a0f47"


@pytest.mark.parametrize("name", ["items", "captions", "questions", "comparisons", "hd"])
def test_training_rows_have_an_answer_and_never_name_a_heldout_pair(name):
    conversations = [ROWS[name]("train", index)["messages"] for index in range(250)]
    assert all(len(messages) >= 2 for messages in conversations)
    text = str(conversations)
    assert not [pair for pair in HELDOUT_PAIRS if " ".join(pair) in text]


def test_query_stage_asks_about_one_item_of_an_image_at_a_time():
    rows = [ROWS["items"]("train", index) for index in range(100)]
    asked = str([row["messages"] for row in rows])
    assert all(row["images"] for row in rows)
    assert "Read the" in asked and "Where is the" in asked
    assert not any(text in asked for text in ("How many", "Which is", "Is the", "Is there"))


def test_exam_has_all_kinds_equally_often():
    exam = make_dataset("exam", "heldout", 36)
    assert {kind: exam["kind"][:].count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 4)
    assert exam[0]["images"][0].size == (CANVAS, CANVAS)
    assert [message["role"] for message in exam[0]["messages"]] == ["user", "assistant"]
    assert exam[0]["messages"][0]["content"][0]["type"] == "image"
