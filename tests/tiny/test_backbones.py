# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tokenizer, the vision tower's regions and losses, and the language model's rows."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flashsloth.processing_flashsloth import IMAGE_TOKEN
from flashsloth.tiny.data import listing, quiz, sketched_row
from flashsloth.tiny.language import (
    Collator,
    Lessons,
    answer_accuracy,
    encode_regions,
    encode_texts,
    examination,
    logits_of,
    losses,
    new_language_model,
)
from flashsloth.tiny.loop import train
from flashsloth.tiny.questions import BRIEFLY, DESCRIBE, KINDS
from flashsloth.tiny.scenes import Item, Scene, make_scene
from flashsloth.tiny.tokenizer import train_tokenizer
from flashsloth.tiny.tower import (
    PHRASE_LIST,
    SIDE,
    Views,
    collate,
    coverage,
    new_tower,
    phrases_of,
    probe,
    region_weights,
    tile_view,
    whole_view,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(vocabulary=600, scenes=60)


@pytest.mark.parametrize("text", ["Where is the red star?", "Grüße aus Köln", "日本語 🦥", "a\n\tb  c", "\x00\x7f"])
def test_any_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_follow_the_base_vocabulary(tokenizer):
    tokens = ["<learnable>", "</s>", "<image>", "<pad>", *(f"<query_{i}>" for i in range(4))]
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(len(tokenizer) - 8, len(tokenizer)))


def test_digits_and_roles_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("47")[-2:] == ["4", "7"]
    assert len(tokenizer.tokenize("USER:")) == 2 and len(tokenizer.tokenize(" .")) == 1


def test_coverage_is_the_covered_share_of_each_patch():
    cover = coverage((4, 8, 16, 20))
    assert cover.sum() * 64 == pytest.approx(12 * 12)
    assert cover[1, 0] == 0.5 and cover[1, 1] == 1 and cover[2, 1] == 0.5 and cover[0].sum() == 0


def test_region_weights_are_means_over_the_box_and_over_its_fullest_block():
    whole, block = region_weights((10, 10, 60, 30)).reshape(2, SIDE, SIDE)
    assert whole.sum() == pytest.approx(1) and block.sum() == pytest.approx(1)
    rows, columns = np.nonzero(block)
    assert len(set(rows // 3)) == len(set(columns // 3)) == 1


def test_phrases_are_known_and_a_tile_says_nothing_of_place_or_size():
    for index in range(50):
        scene = make_scene("train", "ordinary", index)
        for item in scene.items:
            assert set(phrases_of(item, in_tile=True)) < set(phrases_of(item, in_tile=False)) <= set(PHRASE_LIST)


def test_views_keep_what_is_visible():
    scene = make_scene("train", "small_dense", 0)
    assert len(whole_view(scene).items) == 16
    tiles = [tile_view(scene, column, row) for row in range(2) for column in range(2)]
    assert [len(tile.items) for tile in tiles] == [4] * 4
    assert all(0 <= edge <= 96 for tile in tiles for box in tile.boxes for edge in box)


def test_the_tower_learns_and_goes_on_after_a_stop(tokenizer, tmp_path):
    def run(folder, steps, until):
        torch.manual_seed(0)
        tower = new_tower(tokenizer, width=32, layers=1, heads=2)

        def losses(batch):
            picture_loss, region_loss = tower(batch)
            return {"picture": picture_loss, "region": region_loss}

        def batches_from(step):
            for number in range(step, until):
                views = Views(tokenizer, "train", 4 * number, 4 * number + 4)
                yield collate([views[index] for index in range(4)])

        def measure():
            views = Views(tokenizer, "validation", 0, 8)
            return probe(tower, [collate([views[index] for index in range(8)])])

        train(tower, losses, batches_from, steps, 1e-3, folder, measure, measure_every=3)
        return tower.state_dict()

    whole = run(tmp_path / "whole", steps=6, until=6)
    run(tmp_path / "parts", steps=6, until=4)  # its last checkpoint is that of step 3
    parts = run(tmp_path / "parts", steps=6, until=6)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


SETTINGS = {"listing_steps": 2, "listing_batch_size": 4, "batch_size": 6, "steps": 6, "context_weight": 0.1}


def weighted_text(row, tokenizer, weight):
    return tokenizer.decode(row["input_ids"][row["weights"] == weight])


def test_the_decoder_first_reads_lists_then_questions_without_and_with_the_dialogue(tokenizer):
    lessons = Lessons(tokenizer, SETTINGS)
    texts = [tokenizer.batch_decode(lessons[step]["input_ids"], skip_special_tokens=True) for step in range(6)]
    assert [len(rows) for rows in texts] == [4, 4, 6, 6, 6, 6]
    assert not any("?" in text for rows in texts[:2] for text in rows)
    framed = ["ASSISTANT:" in text for rows in texts[2:] for text in rows]
    assert all("?" in text or DESCRIBE in text for rows in texts[2:] for text in rows)
    assert 0 < sum(framed) < len(framed)


def test_comparisons_come_one_form_after_the_other(tokenizer):
    settings = SETTINGS | {"steps": 20}
    expected = {2: {"higher", "left"}, 10: {"higher", "left", "lower", "right"}, 19: {"yes or no"}}
    for step, forms in expected.items():
        text = " ".join(tokenizer.batch_decode(Lessons(tokenizer, settings)[step]["input_ids"]))
        found = set(re.findall(r"Which is (?:further )?(higher|left|lower|right)", text))
        found |= {"yes or no"} if re.search(r"Is the .*? (left of|right of|above|below) the", text) else set()
        assert found == forms if step < 19 else found > forms


def test_lines_about_a_picture_do_not_see_each_other(tokenizer):
    model = new_language_model(tokenizer, width=32, layers=2, heads=2).eval()
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    scene = listing("train", 0)[0]

    def logits(*texts):
        row = encode_texts(tokenizer, [[(text, 1.0)] for text in texts])
        return logits_of(model, Collator(0)([row | {"regions": encode_regions(tokenizer, scene)}]), image_token_id)

    alone, after = logits(" Read the word."), logits(" How many rings are there?", " Read the word.")
    length = alone.shape[1] - 9
    assert torch.allclose(after[:, -length:], alone[:, -length:], atol=1e-5)


def test_language_rows_hold_the_query_slots_and_answers_count_most(tokenizer):
    lessons = Lessons(tokenizer, SETTINGS)
    row = lessons.dialogue(0, form="any")
    text = tokenizer.decode(row["input_ids"])
    assert text.count(" . . . . ASSISTANT:") == text.count("</s>") > 0 and "<learnable>" not in text
    answers = [message["content"][0]["text"] for message in sketched_row("train", 0, "any")[1][1::2]]
    assert weighted_text(row, tokenizer, 1) == "".join(f" {answer}</s>" for answer in answers)
    assert (row["weights"][row["weights"] != 1] == 0.1).all()

    row, turns = lessons.quiz(0, form="any"), quiz("train", 0, "any")[1]
    assert weighted_text(row, tokenizer, 1) == "".join(f" {turn.answer}</s>" for turn in turns)
    assert BRIEFLY not in tokenizer.decode(row["input_ids"])
    row, text = lessons.listing(0), listing("train", 0)[1]
    assert weighted_text(row, tokenizer, 1) == text and weighted_text(row, tokenizer, 0) == IMAGE_TOKEN * 9


def test_a_region_knows_what_it_shows_and_where_that_is(tokenizer):
    item = Item("shape", 2, 1, (0, 0, 9, 9), ink=(0, 0, 0), color="red", shape="circle", size="large")
    regions = encode_regions(tokenizer, Scene((255, 255, 255), 3, (item,)))
    known = tokenizer.batch_decode(regions[5, 0].nonzero())
    assert set(" ".join(known).split()) >= {"large", "red", "circle", "right"}
    assert regions.sum() == regions[5].sum()


def test_47_is_not_74_to_the_decoder(tokenizer):
    model = new_language_model(tokenizer, width=32, layers=1, heads=2).eval()
    batches = []
    for text in ("47", "74"):
        item = Item("number", 0, 0, (0, 0, 9, 9), ink=(0, 0, 0), text=text)
        row = encode_texts(tokenizer, [[(" What number", 1.0)]])
        batches.append(Collator(0)([row | {"regions": encode_regions(tokenizer, Scene((255, 255, 255), 3, (item,)))}]))
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    first, second = (logits_of(model, batch, image_token_id) for batch in batches)
    assert not torch.allclose(first[:, -1], second[:, -1])


def test_padding_costs_nothing(tokenizer):
    lessons, collate = Lessons(tokenizer, SETTINGS), Collator(0)
    model = new_language_model(tokenizer, width=32, layers=1, heads=2).eval()
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    rows = sorted((lessons.dialogue(index, form="any") for index in range(4)), key=lambda row: len(row["weights"]))
    batch = collate(rows)
    assert batch["weights"].count_nonzero() == sum(row["weights"].count_nonzero() for row in rows)
    padded = collate([rows[0], rows[-1]])
    alone = losses(model, collate(rows[:1]), image_token_id)["loss"]
    first = losses(model, {key: value[:1] for key, value in padded.items()}, image_token_id)["loss"]
    assert torch.allclose(first, alone)


def test_an_untrained_language_model_fails_the_examination_and_one_that_knows_the_answers_passes(tokenizer):
    exam = examination(tokenizer, rows=2)
    assert set(exam) == set(KINDS)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    model = new_language_model(tokenizer, width=32, layers=1, heads=2)
    assert set(answer_accuracy(model, exam, image_token_id).values()) == {0.0}

    class Oracle(torch.nn.Module):
        """Knows every word's successor."""

        def __init__(self, input_ids):
            super().__init__()
            self.input_ids = input_ids

        def get_input_embeddings(self):
            return model.get_input_embeddings()

        def forward(self, inputs_embeds, attention_mask, position_ids):
            return SimpleNamespace(logits=torch.nn.functional.one_hot(self.input_ids.roll(-1, 1), len(tokenizer)))

    for kind, batch in exam.items():
        assert answer_accuracy(Oracle(batch["input_ids"]), {kind: batch}, image_token_id) == {kind: 1.0}
