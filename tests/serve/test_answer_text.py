# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What is sent of an answer while it is made is never taken back, and is the whole answer in the end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_tokenizer

from flashsloth.serve.answer_text import AnswerText


TOKENIZER = make_tokenizer()  # a token is a byte
END = TOKENIZER.convert_tokens_to_ids("</s>")


def pieces_of(text: str, *stop: str) -> tuple[list[str], AnswerText, list[int]]:
    """The pieces that a text comes in, and the notes with them: the index of each token."""
    answer, pieces, notes = AnswerText(TOKENIZER, stop), [], []
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    for index, token_id in enumerate(ids):
        piece, more = answer.add(token_id, index)
        pieces.append(piece)
        notes += more
        if answer.is_stopped:
            return pieces, answer, notes
    piece, more = answer.finish()
    return [*pieces, piece], answer, notes + more


@pytest.mark.parametrize(
    ("text", "stop", "pieces"),
    [
        (" ab", (), ["", "a", "b", ""]),
        ("a b ", (), ["a", "", " b", "", ""]),
        ("é!", (), ["", "é", "!", ""]),
        ("abcd", ("bc",), ["a", "", ""]),
        ("abxbcd", ("bc",), ["a", "", "bx", "", ""]),
        ("ab", ("bc",), ["a", "", "b"]),
        ("a  b", (" ",), ["a", ""]),
        (" a b", (" ",), ["", "a", ""]),
        ("aab", ("aab", "ab"), ["", "", ""]),
    ],
)
def test_pieces(text, stop, pieces):
    assert pieces_of(text, *stop)[0] == pieces


@settings(max_examples=200, deadline=None)
@given(st.text("ab é\n", max_size=12), st.lists(st.text("ab é", min_size=1, max_size=3), max_size=3))
def test_pieces_are_the_text_up_to_the_first_stop(text, stops):
    pieces, answer, notes = pieces_of(text, *stops)
    begun = text.lstrip()
    # What ends first decides: a shorter stop string may end before one that begins earlier.
    ends = [end for end in range(len(begun) + 1) if any(begun[:end].endswith(stop) for stop in stops)]
    expected = begun
    if ends:
        expected = min((begun[: begun[: ends[0]].find(s)] for s in stops if s in begun[: ends[0]]), key=len)
    assert "".join(pieces) == expected.rstrip()
    assert answer.is_stopped == bool(ends)
    assert notes == sorted(set(notes))
    if not ends:
        assert len(notes) == len(text.encode())


def test_special_tokens_are_no_text():
    answer = AnswerText(TOKENIZER)
    assert [answer.add(TOKENIZER.encode("a")[0])[0], answer.add(END)[0], answer.finish()[0]] == ["a", "", ""]


def test_half_a_character_at_the_end_is_shown_as_one():
    answer = AnswerText(TOKENIZER)
    answer.add(TOKENIZER.encode("é")[0])
    assert answer.finish()[0] == "\ufffd"


def test_half_a_character_may_be_a_stop_string():
    answer = AnswerText(TOKENIZER, ["\ufffd"])
    for token_id in TOKENIZER.encode("abé", add_special_tokens=False)[:-1]:
        answer.add(token_id)
    assert answer.finish()[0] == "" and answer.is_stopped
    stopped = AnswerText(TOKENIZER, ["b\ufffd"])
    pieces = [stopped.add(token_id)[0] for token_id in TOKENIZER.encode("abé", add_special_tokens=False)[:-1]]
    assert "".join(pieces) + stopped.finish()[0] == "a" and stopped.is_stopped


def test_tokens_behind_a_stop_string_are_dropped():
    _, _, notes = pieces_of("abcd", "cd")
    assert notes == [0, 1]
