# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The rows that the decoder learns from."""

import re

from flashsloth.processing_flashsloth import IMAGE_TOKEN
from flashsloth.tiny.language_data import (
    Lessons,
    draw_dialogue,
    draw_listing,
    draw_quiz,
    encode_regions,
)
from flashsloth.tiny.questions import BRIEFLY, DESCRIBE
from flashsloth.tiny.scenes import Item, Scene


# Six steps: two of lists, four of questions.
SETTINGS = {"listing_steps": 2, "listing_batch_size": 4, "batch_size": 6, "steps": 6, "context_weight": 0.1}


def weighted_text(row, tokenizer, weight):
    """The text of a row's tokens with the given weight."""
    return tokenizer.decode(row["input_ids"][row["weights"] == weight])


def test_the_decoder_first_learns_lists_then_questions_without_and_with_the_chat_format(tokenizer):
    lessons = Lessons(tokenizer, SETTINGS)
    texts = [tokenizer.batch_decode(lessons[step]["input_ids"], skip_special_tokens=True) for step in range(6)]
    assert [len(rows) for rows in texts] == [4, 4, 6, 6, 6, 6]
    assert not any("?" in text for rows in texts[:2] for text in rows)
    in_chat = ["ASSISTANT:" in text for rows in texts[2:] for text in rows]
    assert all("?" in text or DESCRIBE in text for rows in texts[2:] for text in rows)
    assert 0 < sum(in_chat) < len(in_chat)


def test_comparisons_come_one_form_after_the_other(tokenizer):
    settings = SETTINGS | {"steps": 20}
    expected = {2: {"higher", "left"}, 10: {"higher", "left", "lower", "right"}, 19: {"yes or no"}}
    for step, forms in expected.items():
        text = " ".join(tokenizer.batch_decode(Lessons(tokenizer, settings)[step]["input_ids"]))
        found = set(re.findall(r"Which is (?:further )?(higher|left|lower|right)", text))
        found |= {"yes or no"} if re.search(r"Is the .*? (left of|right of|above|below) the", text) else set()
        assert found == forms if step < 19 else found > forms


def test_language_rows_hold_the_query_slots_and_answers_count_most(tokenizer):
    lessons = Lessons(tokenizer, SETTINGS)
    row = lessons.dialogue(0, form="any")
    text = tokenizer.decode(row["input_ids"])
    assert text.count(" . . . . ASSISTANT:") == text.count("</s>") > 0 and "<learnable>" not in text
    answers = [message["content"][0]["text"] for message in draw_dialogue("train", 0, "any")[1][1::2]]
    assert weighted_text(row, tokenizer, 1) == "".join(f" {answer}</s>" for answer in answers)
    assert (row["weights"][row["weights"] != 1] == 0.1).all()

    row, turns = lessons.quiz(0, form="any"), draw_quiz("train", 0, "any")[1]
    assert weighted_text(row, tokenizer, 1) == "".join(f" {turn.answer}</s>" for turn in turns)
    assert BRIEFLY not in tokenizer.decode(row["input_ids"])
    row, text = lessons.listing(0), draw_listing("train", 0)[1]
    assert weighted_text(row, tokenizer, 1) == text and weighted_text(row, tokenizer, 0) == IMAGE_TOKEN * 9


def test_a_region_knows_what_it_shows_and_where_that_is(tokenizer):
    item = Item("shape", 2, 1, (0, 0, 9, 9), ink=(0, 0, 0), color="red", shape="circle", size="large")
    regions = encode_regions(tokenizer, Scene((255, 255, 255), 3, (item,)))
    known = tokenizer.batch_decode(regions[5, 0].nonzero())
    assert set(" ".join(known).split()) >= {"large", "red", "circle", "right"}
    assert regions.sum() == regions[5].sum()
