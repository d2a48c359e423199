# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Pieces of an answer: together they are the answer, and a reader who leaves stops it."""

import subprocess
import sys
import threading

import pytest

from flashsloth.assistant.stream import Stream, Watch
from flashsloth.loading import SHIPPED_CHECKPOINT


SENTENCE = "  The square is red, and the star is *blue*.\nNothing else. \n"


@pytest.fixture
def tokens(processor) -> list[int]:
    return processor.tokenizer(SENTENCE)["input_ids"]


def test_pieces_are_the_answer_without_outer_whitespace(processor, tokens):
    def answer_with(watch: Watch):
        for token in tokens:
            assert watch.step(token) is False
        return "the answer"

    with Stream(answer_with, processor.tokenizer) as stream:
        pieces = list(stream)
    assert "".join(pieces) == SENTENCE.strip() and len(pieces) > 5
    assert stream.answer == "the answer"
    assert list(stream) == []  # it is over, and says so again


def test_a_reader_who_leaves_stops_the_answer(processor, tokens):
    steps, first_is_read = [], threading.Event()

    def answer_with(watch: Watch):
        for count, token in enumerate(tokens * 1000):
            steps.append(token)
            if watch.step(token):
                return "stopped"
            if count == 1:
                first_is_read.wait(10)
        return "at its end"

    with Stream(answer_with, processor.tokenizer) as stream:
        next(stream)
        first_is_read.set()
    assert stream.answer == "stopped" and len(steps) < len(tokens) * 1000


def test_an_error_reaches_the_reader(processor, tokens):
    def answer_with(watch: Watch):
        watch.step(tokens[1])
        raise ValueError("the model cannot do that")

    stream = Stream(answer_with, processor.tokenizer)
    with pytest.raises(ValueError, match="cannot do that"):
        list(stream)
    with pytest.raises(ValueError, match="cannot do that"):
        next(stream)
    with pytest.raises(ValueError, match="cannot do that"):
        _ = stream.answer


def test_a_watch_keeps_the_time_of_each_step():
    watch = Watch()
    watch.step(None)
    watch.step(None)
    assert watch.start <= watch.token_times[0] <= watch.token_times[1]


def test_an_interpreter_that_ends_in_the_middle_ends_well(tmp_path):
    code = (
        "import flashsloth\n"
        f"model = flashsloth.load({str(SHIPPED_CHECKPOINT)!r}, device='cpu')\n"
        "stream = model.stream(None, 'Hello?', min_new_tokens=900, max_new_tokens=900)\n"
        "print(next(stream))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.strip()
