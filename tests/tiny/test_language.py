# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The decoder: what it attends to, its loss, and its examination."""

from types import SimpleNamespace

import torch

from flashsloth.processing_flashsloth import IMAGE_TOKEN
from flashsloth.tiny.language import answer_accuracy, logits_of, losses, new_language_model
from flashsloth.tiny.language_data import Collator, Lessons, encode_regions, encode_texts, examination
from flashsloth.tiny.questions import KINDS
from flashsloth.tiny.scenes import Item, Scene, make_scene


SETTINGS = {"listing_steps": 2, "listing_batch_size": 4, "batch_size": 6, "steps": 6, "context_weight": 0.1}


def test_texts_about_an_image_do_not_attend_to_each_other(tokenizer):
    model = new_language_model(tokenizer, width=32, layers=2, heads=2).eval()
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    scene = make_scene("train", "ordinary", 0)

    def logits(*texts):
        row = encode_texts(tokenizer, [[(text, 1.0)] for text in texts])
        return logits_of(model, Collator(0)([row | {"regions": encode_regions(tokenizer, scene)}]), image_token_id)

    alone, after = logits(" Read the word."), logits(" How many rings are there?", " Read the word.")
    length = alone.shape[1] - 9
    assert torch.allclose(after[:, -length:], alone[:, -length:], atol=1e-5)


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


def test_padding_does_not_count_in_the_loss(tokenizer):
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
        """A decoder that predicts every next token."""

        def __init__(self, input_ids):
            super().__init__()
            self.input_ids = input_ids

        def get_input_embeddings(self):
            return model.get_input_embeddings()

        def forward(self, inputs_embeds, attention_mask, position_ids):
            return SimpleNamespace(logits=torch.nn.functional.one_hot(self.input_ids.roll(-1, 1), len(tokenizer)))

    for kind, batch in exam.items():
        assert answer_accuracy(Oracle(batch["input_ids"]), {kind: batch}, image_token_id) == {kind: 1.0}
