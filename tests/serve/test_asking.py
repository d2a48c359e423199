# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A batch gets the answers of its rows alone; a row that fails takes no other one with it."""

import pytest
import torch
from samples import encode_image, make_image

import flashsloth
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.serve.answer_files import Answered
from flashsloth.serve.asking import BatchModel, ModelOptions, answer_rows
from flashsloth.serve.questions import Row


PICTURES = [encode_image(make_image(seed)) for seed in range(3)]


def shout(images, questions) -> list[str]:
    """A model that shouts, and cannot bear some questions."""
    if any("bad" in question for question in questions):
        raise ValueError("The prompt is\ntoo long.")
    if any("large" in question for question in questions):
        raise torch.OutOfMemoryError
    return [f"{question.upper()} {len(of_row)}" for of_row, question in zip(images, questions, strict=True)]


def test_each_row_has_its_answer_or_its_error():
    rows = [
        Row(3, "one", (PICTURES[0],)),
        Row(4, error="no question"),
        Row(5, "bad"),
        Row(6, "two", (PICTURES[1], PICTURES[2])),
        Row(7, "torn", (PICTURES[0], PICTURES[1][:100])),
        Row(8, "large"),
        Row(9, "none"),
    ]
    answers = answer_rows(rows, shout)
    assert [answered.index for answered in answers] == [row.index for row in rows]
    assert [answered.answer for answered in answers] == ["ONE 1", None, None, "TWO 2", None, None, "NONE 0"]
    assert answers[1].error == "no question" and answers[2].error == "The prompt is too long."
    assert answers[4].error.startswith("Image 2 of 2 ") and answers[5].error == "OutOfMemoryError"
    assert all((answered.answer is None) != (answered.error is None) for answered in answers)


def test_a_fault_of_the_program_is_no_error_of_a_row():
    def broken(images, questions):
        raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        answer_rows([Row(0, "What?")], broken)


def test_rows_of_strangers_lead_to_no_private_address():
    row = Row(0, "What?", ("http://127.0.0.1:9/secret.png",))
    (answered,) = answer_rows([row], shout, local_sources=False)
    assert "is not fetched: it leads to a loopback address" in answered.error


@pytest.fixture(scope="module")
def model():
    return flashsloth.load(str(SHIPPED_CHECKPOINT))


@pytest.mark.parametrize("hd", [None, True])
def test_a_batch_has_the_answers_of_its_rows_alone(hd, model):
    rows = [
        Row(0, "What colour is the square?", (PICTURES[0],)),
        Row(1, "Name a prime number."),
        Row(2, "Which of the two images is larger, and what is in them?", (PICTURES[1], PICTURES[2])),
    ]
    batch = BatchModel(ModelOptions(str(SHIPPED_CHECKPOINT), hd=hd, max_new_tokens=12), local_sources=True)(rows)
    assert batch == [
        Answered(row.index, str(model.ask(images, row.question, hd=hd, max_new_tokens=12)), None)
        for row, images in zip(rows, [make_image(0), None, [make_image(1), make_image(2)]], strict=True)
    ]
