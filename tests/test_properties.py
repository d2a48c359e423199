# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What holds for every input: hypothesis looks for one for which it does not. The budget is fixed and so are the
examples, so that a run takes the same time and finds the same each time.
"""

from io import BytesIO

import numpy as np
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from samples import assistant, encode_image, make_image, prepare, user
from transformers import DynamicCache

from flashsloth import FlashSlothImageProcessor
from flashsloth.image_reading_flashsloth import ImageError, read_image


CLOSE = {"atol": 2e-5, "rtol": 2e-5}
SPECIAL_TOKENS = ("<image>", "<learnable>", "</s>", "<pad>", "<query_0>", "<im", "age>", "USER:", " ASSISTANT:")

characters = st.characters(exclude_categories=["Cs"])  # surrogates are no characters
words = st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(characters, max_size=6))
texts = st.lists(words, min_size=1, max_size=5).map("".join)
images = st.builds(make_image, st.integers(0, 9), st.integers(1, 40), st.integers(1, 40))
parts = st.lists(st.one_of(images, texts), min_size=1, max_size=3)


def budget(examples: int):
    """Settings of a property that is tried on so many examples."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@st.composite
def chats(draw, turns=2):
    """Conversations that end with a user's message."""
    messages = []
    for _ in range(draw(st.integers(1, turns))):
        messages += [user(*draw(parts)), assistant(draw(texts))]
    return messages[:-1]


@st.composite
def encoded_images(draw):
    """The bytes of an image file, some of them changed or cut off."""
    formats = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO")
    data = bytearray(encode_image(make_image(draw(st.integers(0, 3)), 16, 16), draw(st.sampled_from(formats))))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def logits(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs).logits


def rows_without_padding(batch, values):
    return [row[mask.bool()] for row, mask in zip(values, batch["attention_mask"], strict=True)]


def assert_same(one, two):
    torch.testing.assert_close(one, two, **CLOSE)


@budget(40)
@given(batch=st.lists(chats(), min_size=1, max_size=3), hd=st.booleans())
def test_batched_equals_single(model, processor, batch, hd):
    inputs = prepare(processor, batch, hd=hd)
    rows = rows_without_padding(inputs, logits(model, inputs))
    for chat, row in zip(batch, rows, strict=True):
        assert_same(row, logits(model, prepare(processor, [chat], hd=hd))[0])


@budget(30)
@given(chat=chats(), multiple=st.integers(2, 70), side=st.sampled_from(["left", "right"]))
def test_padded_equals_unpadded(model, processor, chat, multiple, side):
    expected = logits(model, prepare(processor, [chat]))[0]
    padded = prepare(processor, [chat], pad_to_multiple_of=multiple, padding_side=side)
    assert_same(rows_without_padding(padded, logits(model, padded))[0], expected)


@budget(30)
@given(batch=st.lists(chats(), min_size=1, max_size=3), hd=st.booleans())
def test_images_are_given_in_many_ways(model, processor, batch, hd):
    """With and without `view_mask`, as pixels and encoded, behind ids and behind their embeddings."""
    inputs = dict(prepare(processor, batch, hd=hd))
    expected = rows_without_padding(inputs, logits(model, inputs))
    view_mask = inputs.pop("view_mask", None)
    without_mask = dict(inputs)
    pixel_values = inputs.pop("pixel_values", None)
    forms = [without_mask]
    if pixel_values is not None:
        with torch.no_grad():
            forms.append(inputs | {"mm_encoder_outputs": {"image": model.get_image_features(pixel_values, view_mask)}})
    embeddings = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]), "input_ids": None}
    forms += [form | embeddings for form in forms]
    for form in forms:
        for found, row in zip(rows_without_padding(inputs, logits(model, form)), expected, strict=True):
            assert_same(found, row)


@budget(30)
@given(batch=st.lists(chats(), min_size=2, max_size=3), others=st.lists(chats(), min_size=3, max_size=3))
def test_rows_are_independent(model, processor, batch, others):
    """Whatever stands in the other rows, a row's logits stay what they are."""
    row = logits(model, prepare(processor, batch))[0]
    mixed = [batch[0], *others[: len(batch) - 1]]
    inputs = [prepare(processor, rows) for rows in (batch, mixed)]
    one, two = (rows_without_padding(each, logits(model, each))[0] for each in inputs)
    assert_same(one, two)
    assert row.isfinite().all()


@budget(30)
@given(chat=chats(), steps=st.integers(1, 3))
def test_cached_equals_uncached(model, processor, chat, steps):
    inputs = prepare(processor, [chat])
    with torch.no_grad():
        cached = model.generate(**inputs, max_new_tokens=steps, do_sample=False)
        uncached = model.generate(**inputs, max_new_tokens=steps, do_sample=False, use_cache=False)
    assert torch.equal(cached, uncached)


@budget(25)
@given(first=parts, answer=texts, second=parts)
def test_follow_up_equals_recompute(model, processor, first, answer, second):
    """A turn on the kept cache gives the logits of the whole conversation computed anew."""
    chat = [user(*first)]
    whole = prepare(processor, [chat + [assistant(answer), user(*second)]])
    prompt = processor.apply_chat_template(chat + [assistant(answer)])
    prefix = processor(text=prompt, images=_images(first), return_tensors="pt")["input_ids"]
    length = prefix.shape[1]
    assert torch.equal(whole["input_ids"][:, :length], prefix)
    expected = logits(model, whole)[0, length:]
    cache = DynamicCache(config=model.config.text_config)
    features = None
    if "pixel_values" in whole:
        with torch.no_grad():
            features = model.get_image_features(whole["pixel_values"], whole["view_mask"])
    num_first = len(_images(first))
    start = {"input_ids": whole["input_ids"][:, :length]}
    if num_first:
        start |= {"pixel_values": whole["pixel_values"][:num_first]}
    logits(model, start, past_key_values=cache, use_cache=True)
    rest = {"input_ids": whole["input_ids"][:, length:]}
    if features is not None:
        rest["mm_encoder_outputs"] = {"image": features}
    assert_same(logits(model, rest, past_key_values=cache, use_cache=True)[0], expected)


def _images(message_parts) -> list:
    return [part for part in message_parts if not isinstance(part, str)]


@budget(150)
@given(text=st.text(characters, max_size=40) | texts)
def test_any_text_survives(processor, text):
    assume(text.strip())
    ids = prepare(processor, [[user(text)]])["input_ids"][0].tolist()
    decoded = processor.tokenizer.decode(ids)
    assert f"USER: {text.replace(chr(0xF0000), '')}<query_0>" in decoded
    count = {token: ids.count(processor.tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS[:5]}
    assert count == {"<image>": 0, "<learnable>": 0, "</s>": 0, "<pad>": 0, "<query_0>": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "image", "user", "url"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@budget(200)
@given(
    conversation=JSON
    | st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": JSON}), max_size=3
    )
)
def test_any_conversation_is_taken_or_refused(processor, conversation):
    try:
        processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)


@budget(200)
@given(text=JSON)
def test_any_prompt_is_taken_or_refused(processor, text):
    try:
        processor(text=text)
    except ValueError as error:
        assert str(error)


@budget(300)
@given(data=encoded_images() | st.binary(max_size=60))
@example(b"")
def test_any_bytes_give_an_image_or_one_clear_error(data):
    try:
        image = read_image(data, "it")
    except ImageError as error:
        assert str(error).startswith("it ") and "\n" not in str(error) and error.reason
    else:
        assert image.mode == "RGB" and min(image.size) > 0


@budget(300)
@given(array=npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, max_dims=4, max_side=5)))
def test_any_array_gives_an_image_or_one_clear_error(array):
    try:
        image = read_image(array, "it")
    except ImageError as error:
        assert str(error).startswith("it ")
    else:
        assert array.ndim in (2, 3) and image.mode == "RGB"
        assert array.dtype == bool or np.issubdtype(array.dtype, np.number)


@budget(60)
@given(
    image=images, mode=st.sampled_from(["1", "L", "P", "RGBA", "CMYK", "YCbCr", "I;16", "F"]), grid=st.integers(1, 3)
)
def test_any_image_makes_its_views(image, mode, grid):
    image_processor = FlashSlothImageProcessor(size={"height": 8, "width": 8}, tile_grid=grid)
    image = image.convert("L").convert(mode) if mode in ("I;16", "F") else image.convert(mode)
    for hd in (False, True):
        views = image_processor(image, hd=hd, return_tensors="pt")["pixel_values"]
        assert views.shape == (image_processor.num_views(hd), 3, 8, 8)
        assert views.isfinite().all() and views.abs().max() <= 1
    stored = Image.open(BytesIO(encode_image(image.convert("RGB"), "PNG")))
    np.testing.assert_array_equal(
        image_processor(stored)["pixel_values"], image_processor(image.convert("RGB"))["pixel_values"]
    )
