# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth.load` and what it gives: answers of the shipped checkpoint, which are those of `generate`."""

import numpy as np
import pytest
import torch
from model_folders import error_of
from PIL import Image

import flashsloth
from flashsloth.image_reading_flashsloth import ImageError
from flashsloth.loading import SHIPPED_CHECKPOINT


SCENE, WORDS = "examples/scene.png", "examples/small_text.png"
COLOUR = "What colour is the square?"


@pytest.fixture(scope="module")
def shipped():
    return flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32", device="cpu")


def generated(model, messages, **options) -> str:
    """The answer by the documented calls of transformers."""
    inputs = model.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = model.model.generate(**inputs, max_new_tokens=32, **options)
    return model.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def message(question: str, *images: str) -> dict:
    parts = [{"type": "image", "path": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}


@pytest.mark.parametrize("images", [None, SCENE, [SCENE], [SCENE, WORDS]])
def test_an_answer_is_that_of_generate(images, shipped):
    given = images if isinstance(images, list) else [images] if images else []
    answer = shipped.ask(images, COLOUR)
    assert str(answer) == answer.text == generated(shipped, [message(COLOUR, *given)])
    assert answer.visual_tokens == 9 * len(given)
    assert answer.finish_reason == "stop" and answer.attention is None
    assert answer.num_tokens == len(shipped.processor.tokenizer(" " + answer.text)["input_ids"]) + 1  # and its end
    assert answer.seconds_to_first_token > 0 and answer.tokens_per_second > 0


def test_the_shipped_model_answers_truly(shipped):
    assert str(shipped.ask(SCENE, COLOUR)) == "The square is red."


def test_options_reach_generate(shipped):
    cut = shipped.ask(SCENE, COLOUR, max_new_tokens=2)
    assert (cut.text, cut.num_tokens, cut.finish_reason) == ("The square", 2, "length")
    stopped = shipped.ask(SCENE, COLOUR, stop_strings=["square"])
    assert (stopped.text, stopped.finish_reason) == ("The square", "stop")
    torch.manual_seed(0)
    sampled = {str(shipped.ask(SCENE, COLOUR, do_sample=True, temperature=50.0, max_new_tokens=4)) for _ in range(3)}
    assert len(sampled) == 3
    assert str(shipped.ask(SCENE, COLOUR, num_beams=2)) == generated(shipped, [message(COLOUR, SCENE)], num_beams=2)


def test_a_system_prompt_takes_the_place_of_the_published_one(shipped):
    short, published = shipped.ask(SCENE, COLOUR, system="Hi."), shipped.ask(SCENE, COLOUR)
    assert short.prompt_tokens < published.prompt_tokens
    system = {"role": "system", "content": "Hi."}
    assert str(short) == generated(shipped, [system, message(COLOUR, SCENE)])


def test_a_batch_gives_the_answers_of_one_by_one(shipped):
    images = [SCENE, None, [SCENE, WORDS], [WORDS]]
    questions = [COLOUR, "What is two plus two?", "Which is larger?", "Which word do you see in this picture?"]
    answers = shipped.ask(images, questions)
    alone = [shipped.ask(*pair) for pair in zip(images, questions, strict=True)]
    for name in ("text", "num_tokens", "prompt_tokens", "visual_tokens", "finish_reason"):
        assert [getattr(answer, name) for answer in answers] == [getattr(answer, name) for answer in alone], name
    assert shipped.ask([], []) == []


def test_a_stream_gives_the_same_answer_in_pieces(shipped):
    with shipped.stream(SCENE, COLOUR) as stream:
        pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == str(stream.answer) == str(shipped.ask(SCENE, COLOUR))


def test_a_stream_that_is_left_ends(shipped):
    with shipped.stream(SCENE, COLOUR, min_new_tokens=2000, max_new_tokens=2000) as stream:
        next(stream)
    assert stream.answer.finish_reason == "interrupted" and stream.answer.num_tokens < 2000


def test_high_definition_is_the_checkpoints_unless_told_otherwise(shipped):
    assert shipped.ask(SCENE, COLOUR).visual_tokens == 9
    assert shipped.ask(SCENE, COLOUR, hd=True).visual_tokens == 45
    always = flashsloth.load(SHIPPED_CHECKPOINT, hd=True, device="cpu")
    assert always.ask(SCENE, COLOUR).visual_tokens == 45
    assert always.ask(SCENE, COLOUR, hd=False).visual_tokens == 9


def test_an_explained_answer_tells_where_the_model_looked(shipped):
    wide = Image.open(SCENE).convert("RGB").resize((120, 60))
    answer = shipped.ask([SCENE, wide], COLOUR, explain=True)
    assert str(answer) == str(shipped.ask([SCENE, wide], COLOUR))
    first, second = answer.attention
    assert first.query_tokens.shape == first.image.size[::-1] == (192, 192)
    assert second.query_tokens.shape == second.pooling.shape == (60, 120)
    # the weights of the query tokens are shared among all images, those of pooling add up in each of its tokens
    assert first.query_tokens.sum() + second.query_tokens.sum() == pytest.approx(1, abs=0.02)
    assert first.pooling.sum() == pytest.approx(9, abs=0.1)
    assert first.overlay().size == (192, 192)


def test_explanations_are_of_each_row_and_of_tiles(shipped):
    rows = shipped.ask([SCENE, None], [COLOUR, "Hello?"], explain=True)
    alone = shipped.ask(SCENE, COLOUR, explain=True).attention[0]
    assert np.array_equal(rows[0].attention[0].query_tokens, alone.query_tokens)
    assert rows[1].attention == []
    (tiles,) = shipped.ask(SCENE, COLOUR, hd=True, explain=True).attention
    assert tiles.pooling.sum() == pytest.approx(5 * 9, abs=0.5)  # the standard view and four tiles


BAD_CALLS = [
    (("nope.png", COLOUR), {}, "The image 'nope.png' does not exist"),
    ((SCENE, ""), {}, "The question is empty"),
    ((SCENE, None), {}, "The question is None: pass text"),
    ((SCENE, 3), {}, "The question is 3: pass text"),
    ((SCENE, COLOUR), {"hd": "yes"}, "hd is 'yes': pass True, False, or None"),
    ((SCENE, COLOUR), {"max_tokens": 3}, "max_tokens is no option of generate"),
    ((SCENE, COLOUR), {"temperature": 0.5}, "has no effect without do_sample=True"),
    ((None, "word " * 3000), {}, "shorten the text"),
]


@pytest.mark.parametrize("arguments, options, message", BAD_CALLS)
def test_bad_calls(arguments, options, message, shipped):
    assert message in error_of(shipped.ask, *arguments, **options)
    with pytest.raises(ValueError, match=message):
        list(shipped.stream(*arguments, **options))


def test_bad_batches(shipped):
    assert "images is str for 2 questions" in error_of(shipped.ask, SCENE, [COLOUR, COLOUR])
    assert "images is 1 entries for 2 questions" in error_of(shipped.ask, [SCENE], [COLOUR, COLOUR])
    with pytest.raises(ImageError):
        shipped.ask([SCENE, "nope.png"], [COLOUR, COLOUR])


def test_high_definition_is_a_truth_value(shipped):
    for hd in ("yes", 1, "off"):
        message = f"hd is {hd!r}: pass True, False, or None"
        assert message in error_of(flashsloth.load, "there is no such folder", hd=hd)  # before anything is loaded
        assert message in error_of(shipped.chat, hd=hd)
    chat = shipped.chat()
    chat.hd = "off"
    assert "hd is 'off'" in error_of(chat.ask, "Hello?")


def test_what_cannot_be_loaded(tmp_path):
    assert "There is no backend 'tensorflow'" in error_of(flashsloth.load, SHIPPED_CHECKPOINT, backend="tensorflow")
    assert "This machine has no device 'cuda:99'" in error_of(flashsloth.load, SHIPPED_CHECKPOINT, device="cuda:99")
    assert "no device 'meta'" in error_of(flashsloth.load, SHIPPED_CHECKPOINT, device="meta")
    assert "no device 'gpu'" in error_of(flashsloth.load, SHIPPED_CHECKPOINT, device="gpu")
    assert "config.json" in error_of(flashsloth.load, tmp_path)


def test_a_way_of_decoding_that_gives_several_tokens_at_once_is_streamed_whole(shipped):
    question = "Repeat: The square is red. The square is red. What colour is the square?"
    with shipped.stream(SCENE, question, prompt_lookup_num_tokens=2) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.answer.text == str(shipped.ask(SCENE, question))


def test_a_stop_string_ends_one_row_of_a_batch(shipped):
    rows = shipped.ask([SCENE, SCENE], [COLOUR, "What colour is the star?"], stop_strings=["red"])
    alone = shipped.ask(SCENE, COLOUR, stop_strings=["red"])
    assert (rows[0].num_tokens, rows[0].finish_reason) == (alone.num_tokens, "stop") and rows[0].text == alone.text


def test_an_image_may_be_drawn_on_while_it_is_asked_about(shipped):
    image = Image.open(SCENE).convert("RGB")
    chat = shipped.chat()
    stream = chat.stream(COLOUR, image)
    image.paste((0, 0, 0), (0, 0, *image.size))
    assert str(stream.answer) == "The square is red."
    assert np.asarray(chat.messages[0]["content"][0]["image"]).any()
