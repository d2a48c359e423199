# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Batches: which tokens the loss covers, batches without images, rows that only fill up, images that are gone."""

import pytest
import torch
from samples import assistant, make_image, user
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from flashsloth.tiny.data import make_dataset
from flashsloth.train.collator import IGNORED, Collator
from flashsloth.train.data.broken_rows import BrokenRowError
from flashsloth.train.data.images import UnreachableImage


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


def image_row(image, name="x7") -> dict:
    """A row with one image, as the data holds it."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    return {"id": name, "images": [image], "messages": [question, assistant("Noise.")]}


def test_rows_that_fill_a_batch_up_teach_nothing(model, processor):
    rows = [image_row(make_image(0)), image_row(make_image(1)) | {"is_filler": True}]
    batch = Collator(processor, assistant_only_loss=True)(rows)
    assert len(batch["pixel_values"]) == 2
    assert (batch["labels"][0] != IGNORED).any() and (batch["labels"][1] == IGNORED).all()
    alone = Collator(processor, assistant_only_loss=True)(rows[:1])
    torch.testing.assert_close(model(**batch).loss, model(**alone).loss)


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_files_are_decoded_to_the_images_that_they_hold(kind, processor, tmp_path):
    make_image(0).save(tmp_path / "a.png")
    file = {"path": str(tmp_path / "a.png"), "bytes": None}
    if kind == "bytes":
        file = {"path": None, "bytes": (tmp_path / "a.png").read_bytes()}
    collator = Collator(processor, assistant_only_loss=True)
    from_file, expected = collator([image_row(file)]), collator([image_row(make_image(0))])
    assert all(torch.equal(from_file[key], expected[key]) for key in expected)


def test_a_file_that_is_gone_or_damaged_names_row_and_file(processor, tmp_path):
    make_image(0).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    collator = Collator(processor, assistant_only_loss=True)
    for name in ("gone.png", "cut.png"):
        rows = [image_row({"path": str(tmp_path / file), "bytes": None}, file) for file in ("good.png", name)]
        with pytest.raises(BrokenRowError, match=f"^row '{name}' cannot be read any more: .*{name}.* resume") as error:
            collator(rows)
        assert "\n" not in str(error.value)


def test_a_server_that_does_not_answer_is_no_fault_of_the_row(processor, monkeypatch):
    monkeypatch.setattr("flashsloth.train.data.images.RETRY_WAITS", ())
    with pytest.raises(UnreachableImage, match="http://127.0.0.1:1/a.png cannot be fetched: .* Start again"):
        Collator(processor)([image_row({"path": "http://127.0.0.1:1/a.png", "bytes": None})])
