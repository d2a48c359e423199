# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Batches: which tokens the loss covers, batches without images, rows that only fill up, images that are gone."""

import pytest
import torch
from samples import assistant, make_image, user
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from flashsloth.tiny.data import make_dataset
from flashsloth.train.collator import Collator


VISION = ("vision_tower", "pooling", "multi_modal_projector", "embedded_query")


def text_row(question, answer):
    return {"images": [], "messages": [user(question), assistant(answer)]}


def test_loss_covers_answers_and_their_end_only(processor):
    rows = [dict(row) for row in make_dataset("questions", "train", 4)]
    expected = [[m["content"][-1]["text"] for m in row["messages"] if m["role"] == "assistant"] for row in rows]
    collator = Collator(processor, assistant_only_loss=True)
    for labels, answers in zip(collator(rows)["labels"], expected, strict=True):
        assert processor.tokenizer.decode(labels[labels != -100]) == "".join(f" {answer}</s>" for answer in answers)


@pytest.mark.parametrize("hd", [False, True])
@pytest.mark.parametrize("answers", [["One.", "A much longer answer. " * 10], ["The only one."]])
def test_batch_without_images_trains_alike_and_gives_every_module_a_gradient(model, processor, answers, hd):
    rows = [text_row("How many?", answer) for answer in answers]
    plain = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)(rows)
    hd_before, processor.image_processor.hd = processor.image_processor.hd, hd
    batch = Collator(processor, assistant_only_loss=True, pad_to_multiple_of=8)(rows)
    processor.image_processor.hd = hd_before
    assert batch["input_ids"].shape[1] % 8 == 0
    torch.testing.assert_close(model(**batch).loss, model(**plain).loss, rtol=0, atol=1e-6)
    model(**batch).loss.backward()
    for name, parameter in model.model.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith(VISION):
            assert not parameter.grad.any(), name


def test_batch_with_an_image_stays_as_it_is(processor):
    rows = [
        text_row("How many?", "One."),
        {"images": [make_image()], "messages": [user({"type": "image"}), assistant("It.")]},
    ]
    rows[1]["messages"][0]["content"] = [{"type": "image"}, {"type": "text", "text": "What?"}]
    plain = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)(rows)
    batch = Collator(processor, assistant_only_loss=True)(rows)
    assert all(torch.equal(batch[key], plain[key]) for key in plain)
