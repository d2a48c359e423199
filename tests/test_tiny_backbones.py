# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tokenizer, the vision tower's regions and losses, and the language model's rows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flashsloth.train.tiny.data import told_row
from flashsloth.train.tiny.language import (
    Collator,
    Conversations,
    answer_accuracy,
    encode,
    examination,
    losses,
    new_language_model,
)
from flashsloth.train.tiny.loop import train
from flashsloth.train.tiny.questions import KINDS
from flashsloth.train.tiny.scenes import make_scene
from flashsloth.train.tiny.tokenizer import train_tokenizer
from flashsloth.train.tiny.tower import (
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


def test_language_rows_hold_the_query_slots_and_answers_count_most(tokenizer):
    rows = Conversations(tokenizer, context_weight=0.1, start=0, stop=6)
    text = tokenizer.decode(rows[0]["input_ids"])
    assert text.count(" . . . . ASSISTANT:") == text.count("</s>") > 0 and "<learnable>" not in text
    answers = [message["content"][0]["text"] for message in told_row("train", 0)["messages"][1::2]]
    ids, weights = rows[0]["input_ids"], rows[0]["weights"]
    assert tokenizer.decode(ids[weights == 1]) == "".join(f" {answer}</s>" for answer in answers)
    assert (weights[weights != 1] == 0.1).all()


def test_padding_costs_nothing(tokenizer):
    rows = [encode(tokenizer, told_row("train", index)["messages"], context_weight=0.1) for index in range(4)]
    model, collate = new_language_model(tokenizer, width=32, layers=1, heads=2).eval(), Collator(0)
    batch, shortest = collate(rows), min(rows, key=lambda row: len(row["weights"]))
    assert (batch["weights"][batch["attention_mask"] == 0] == 0).all()
    padded = collate([shortest, max(rows, key=lambda row: len(row["weights"]))])
    alone = losses(model, collate([shortest]))["loss"]
    assert torch.allclose(losses(model, {key: value[:1] for key, value in padded.items()})["loss"], alone)


def test_an_untrained_language_model_fails_the_examination_and_one_that_knows_the_answers_passes(tokenizer):
    exam = examination(tokenizer, rows=2)
    assert set(exam) == set(KINDS)

    class Oracle(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids.roll(-1, 1), len(tokenizer)))

    model = new_language_model(tokenizer, width=32, layers=1, heads=2)
    assert set(answer_accuracy(model, exam).values()) == {0.0}
    assert set(answer_accuracy(Oracle(), exam).values()) == {1.0}
