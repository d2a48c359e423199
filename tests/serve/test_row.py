# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The pieces of one answer, delivered as they come or at its end: its last token, a stop string or its limit."""

import pytest
from samples import make_tokenizer

from flashsloth.serve.row import Piece, Prompt, Row, add_tokens
from flashsloth.serve.sampling import TokenLogprobs


TOKENIZER = make_tokenizer()
END = TOKENIZER.eos_token_id


def row_of(**options) -> tuple[Row, list[Piece]]:
    """A row that has begun, and the pieces that it delivers."""
    pieces: list[Piece] = []
    row = Row(Prompt([1]), options.pop("max_new_tokens", 20), pieces.append, **options)
    row.begin(TOKENIZER)
    return row, pieces


def give(row: Row, text: str, ends: bool = False) -> int:
    """Gives a row the tokens of a text; returns how many of them it took."""
    tokens = TOKENIZER(text, add_special_tokens=False).input_ids + [END] * ends
    for token in tokens:
        add_tokens([row], [token], {END}, {})
    return len(tokens)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_pieces_make_up_the_answer(is_streamed):
    row, pieces = row_of(is_streamed=is_streamed)
    length = give(row, " a red square ", ends=True)
    assert "".join(piece.text for piece in pieces) == "a red square"
    assert (len(pieces) > 1) == is_streamed
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["stop"]
    assert pieces[-1].num_tokens == length and row.is_done


def test_longest_length_ends_an_answer_and_further_tokens_are_dropped():
    row, pieces = row_of(max_new_tokens=3)
    give(row, "abcdef")
    assert [(piece.text, piece.finish_reason, piece.num_tokens) for piece in pieces] == [("abc", "length", 3)]


def test_stop_string_ends_an_answer():
    row, pieces = row_of(stop=["cd"], is_streamed=True)
    give(row, "abcdef")
    assert "".join(piece.text for piece in pieces) == "ab" and pieces[-1].finish_reason == "stop"


def test_half_a_character_at_the_limit_may_be_a_stop_string():
    row, pieces = row_of(stop=["\ufffd"], max_new_tokens=2)
    give(row, "aé")
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("a", "stop")]


def test_row_whose_receiver_fails_leaves_the_others(caplog):
    def fail(piece: Piece) -> None:
        raise RuntimeError("nobody listens")

    broken, (other, pieces) = Row(Prompt([1]), 20, fail, is_streamed=True), row_of(max_new_tokens=1)
    broken.begin(TOKENIZER)
    (token,) = TOKENIZER("a", add_special_tokens=False).input_ids
    assert add_tokens([broken, other], [token, token], {END}, {}) == 0
    assert broken.is_done and pieces[0].text == "a" and "nobody listens" in caplog.text


def test_cancelled_row_delivers_nothing_more():
    row, pieces = row_of(is_streamed=True)
    give(row, "ab")
    row.cancel()
    delivered = len(pieces)
    give(row, "cd")
    row.fail(RuntimeError("a fault"))
    assert len(pieces) == delivered


def test_rows_of_a_batch_get_their_own_tokens():
    (first, firsts), (second, seconds) = row_of(max_new_tokens=1), row_of(max_new_tokens=2)
    logprobs = TokenLogprobs(-0.5, [])
    a, b = TOKENIZER("ab", add_special_tokens=False).input_ids
    assert add_tokens([first, second], [a, b], {END}, {1: logprobs}) == 1
    assert add_tokens([first, second], [a, b], {END}, {1: logprobs}) == 0
    assert firsts[0].text == "a" and not firsts[0].tokens
    assert seconds[0].text == "bb" and [token.logprobs for token in seconds[0].tokens] == [logprobs] * 2
