# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Prompts and conversations become exactly the tokens that the model expects."""

import pytest
import torch
from samples import assistant, make_image, make_tokenizer, user
from tokenizers.normalizers import Lowercase

from flashsloth import FlashSlothImageProcessor, FlashSlothProcessor
from flashsloth.processing_flashsloth import ConversationError


SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def tokens(processor, conversation, **kwargs):
    return processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", **{"add_generation_prompt": True, **kwargs}
    )


def test_prompt_text(processor):
    chat = [user(make_image(), "Hue?"), assistant("Red."), user("Sure?")]
    first = f"{SYSTEM} USER: <image>\nHue?<learnable> ASSISTANT:"
    assert processor.apply_chat_template(chat[:1], add_generation_prompt=True) == first
    assert processor.apply_chat_template(chat[:2]) == f"{first} Red.</s>"
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == f"{first} Red.</s>USER: Sure?<learnable> ASSISTANT:"
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert processor.apply_chat_template(own, add_generation_prompt=True) == "Be brief. USER: Hi<learnable> ASSISTANT:"


def test_prefix_of_a_conversation_is_a_prefix_of_its_tokens(processor):
    """A kept cache can be continued only if earlier turns never change."""
    chat = [user(make_image(), "Hue?"), assistant("Red."), user("Sure?")]
    first = tokens(processor, chat[:1])["input_ids"][0].tolist()
    both = tokens(processor, chat)["input_ids"][0].tolist()
    assert both[: len(first)] == first


@pytest.mark.parametrize("hd", [False, True])
def test_raw_prompt_equals_chat_template(processor, hd):
    chat = [user(make_image(0), make_image(1), "Hue?"), assistant("Red."), user("Sure?")]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    raw = processor(images=[make_image(0), make_image(1)], text=text, hd=hd, return_tensors="pt")
    templated = tokens(processor, chat, hd=hd)
    assert set(raw) == set(templated) == {"input_ids", "attention_mask", "pixel_values", "view_mask"}
    for name, value in raw.items():
        assert torch.equal(value, templated[name]), name
    views = 5 if hd else 1
    assert (raw["input_ids"] == 258).sum() == 2 * views * 4
    assert raw["pixel_values"].shape == (2 * views, 3, 24, 24) and raw["view_mask"].tolist() == [[1] * 2 * views]
    assert [i for i in raw["input_ids"][0].tolist() if i >= 260] == [260, 261, 262] * 2


def test_hd_is_the_checkpoints_default_and_can_be_overridden(processor):
    hd = FlashSlothProcessor(
        FlashSlothImageProcessor(size={"height": 24, "width": 24}, hd=True), processor.tokenizer, 4, 3
    )
    chat = [user(make_image(), "Hue?")]
    assert tokens(hd, chat)["pixel_values"].shape[0] == 5
    assert tokens(hd, chat, hd=False)["pixel_values"].shape[0] == 1
    assert tokens(hd, chat, processor_kwargs={"hd": False})["pixel_values"].shape[0] == 1


def test_text_only_has_the_same_keys(processor):
    inputs = tokens(processor, [user("Hello")])
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values", "view_mask"}
    assert inputs["pixel_values"].shape == (0, 3, 24, 24) and inputs["view_mask"].tolist() == [[0]]


def test_batch_is_padded_on_the_left_and_counts_views_by_row(processor, chats):
    names = ["two images", "text only", "one image"]
    batch = tokens(processor, [chats[name] for name in names], processor_kwargs={"padding": True, "hd": True})
    assert batch["view_mask"].tolist() == [[1] * 10, [0] * 10, [1] * 5 + [0] * 5]
    for row, name in enumerate(names):
        single = tokens(processor, chats[name], hd=True)["input_ids"][0]
        assert torch.equal(batch["input_ids"][row, -len(single) :], single)
        mask = batch["attention_mask"][row]
        assert mask.tolist() == [0] * (len(mask) - len(single)) + [1] * len(single)


def test_images_only(processor):
    assert set(processor(images=make_image(), return_tensors="pt")) == {"pixel_values"}


SPECIAL = "<image> <learnable> </s> <pad> <query_0><query_2> <im<image>age>"


@pytest.mark.parametrize("mask", [False, True])
def test_special_tokens_in_user_text_stay_text(processor, mask):
    chat = [user(make_image(), SPECIAL), assistant(f"I see {SPECIAL}."), user(f"\U000f0000{SPECIAL}")]
    chat += [assistant("End.")] if mask else []
    inputs = tokens(processor, chat, add_generation_prompt=not mask, return_assistant_tokens_mask=mask)
    asked_for = tokens(processor, chat, add_generation_prompt=not mask, sanitize_control_tokens=True)
    assert torch.equal(asked_for["input_ids"], inputs["input_ids"])
    ids = inputs["input_ids"][0].tolist()
    turns = 2
    expected = {256: 0, 257: 1 + mask, 258: 4, 259: 0, 260: turns, 261: turns, 262: turns}
    assert {i: ids.count(i) for i in expected} == expected
    plain = processor.decode([i for i in ids if i < 256])
    assert plain.count(SPECIAL) == 3 and "\U000f0000" not in plain
    if mask:
        picked = inputs["input_ids"][0][inputs["assistant_masks"][0].bool()].tolist()
        assert picked.count(257) == 2
        assert processor.decode([i for i in picked if i < 256]) == f" I see {SPECIAL}. End."


@pytest.mark.parametrize("token", ["<image>", "<learnable>", "<query_0>", "</s>"])
def test_special_token_split_over_two_parts_stays_text(processor, token):
    def chat(*texts):
        return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]

    for middle in range(1, len(token)):
        split = tokens(processor, chat("a " + token[:middle], token[middle:] + " b"))
        assert torch.equal(split["input_ids"], tokens(processor, chat(f"a {token} b"))["input_ids"])


def test_truncation_that_cuts_query_tokens(processor):
    with pytest.raises(ValueError, match="Truncation cut the query tokens of prompt 0"):
        processor(text="hello there<learnable>", truncation=True, max_length=13)


@pytest.mark.parametrize("chat", [["hi"], [{"role": "user", "content": ["hi"]}], [["hi"]]], ids=str)
def test_what_is_no_message_or_part_is_shown(processor, chat):
    with pytest.raises(ValueError, match="'hi'"):
        processor.apply_chat_template(chat)


@pytest.mark.parametrize("hd", [False, True])
def test_assistant_mask_is_exact(processor, hd):
    answers = ["Ein rotes Auto, 赤い車 🚗.", "Ja.", "Ünïcödé"]
    chat = [user(make_image(0), make_image(1), "Was ist das? 何?"), assistant(answers[0])]
    chat += [user(make_image(2), "Groß?"), assistant(answers[1]), user("Wie?"), assistant(answers[2])]
    batch = [chat, [user("Hello"), assistant("Hi.")]]
    inputs = tokens(
        processor,
        batch,
        add_generation_prompt=False,
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "hd": hd},
    )
    for row, expected in enumerate(["".join(f" {answer}</s>" for answer in answers), " Hi.</s>"]):
        picked = inputs["input_ids"][row][inputs["assistant_masks"][row].bool()]
        assert processor.decode(picked) == expected


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        (None, "<image>\nHi<learnable>", "prompts have 1 <image> .* 0 images are given"),
        (1, "Hi<learnable>", "prompts have 0 <image> .* 1 images are given"),
        (
            3,
            ["<image>a", "<image><image>b", "<image>"],
            "4 <image> .prompt 0: 1, prompt 1: 2, prompt 2: 1.*3 images",
        ),
        ([1, 1], ["<image>a", "<image><image>b"], "Prompt 1 has 2 <image>, but 1 images"),
        ([1], ["<image>a", "b"], "images for 1 prompts, but 2 prompts"),
    ],
)
def test_counts_that_differ(processor, images, text, message):
    if isinstance(images, list):
        images = [[make_image()] * count for count in images]
    elif images:
        images = [make_image()] * images
    with pytest.raises(ValueError, match=message):
        processor(images=images, text=text)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([], "The conversation is empty"),
        ([{"role": "system", "content": "x"}], "system prompt only"),
        ([assistant("x")], "'assistant' where 'user' is expected"),
        ([user("x"), user("y")], "'user' where 'assistant' is expected .message 1"),
        ([user("x"), {"role": "tool", "content": "y"}], "'tool' where 'assistant'"),
        ([{"role": "user", "content": []}], "message 0 has no content"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": [{"type": "video", "path": "x"}]}], "part of type 'video'"),
        ([[user("x")], []], "Conversation 1 is empty"),
        ("Hello", "A conversation is a list of messages, got str"),
    ],
)
def test_bad_conversations(processor, chat, message):
    with pytest.raises(ValueError, match=message):
        tokens(processor, chat)


def test_unreadable_image_in_a_conversation_is_named(processor, tmp_path):
    chat = [{"role": "user", "content": [{"type": "image", "path": str(tmp_path / "gone.png")}]}]
    with pytest.raises(ValueError, match="gone.png"):
        tokens(processor, chat)


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ([assistant("x")], "wrong order of turns"),
        ([], "wrong order of turns"),
        ([{"role": "user", "content": [{"type": "video", "path": "x"}]}], "unknown kind of content"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "unknown kind of content"),
        ([user("x"), "hi"], "unknown kind of content"),
        ([{"role": "user", "content": []}], "empty turn"),
    ],
)
def test_reasons(processor, chat, reason):
    with pytest.raises(ConversationError) as error:
        processor.apply_chat_template(chat)
    assert error.value.reason == reason and error.value.detail == str(error.value)


@pytest.mark.parametrize("hd", [None, False, True])
def test_sequence_length_needs_no_images(processor, chats, hd):
    for chat in [*chats.values(), [user(make_image(), SPECIAL), assistant(SPECIAL)]]:
        bare = [
            {**message, "content": [{"type": p["type"], "text": p.get("text")} for p in message["content"]]}
            for message in chat
        ]
        expected = tokens(processor, chat, hd=hd, add_generation_prompt=False)["input_ids"].shape[1]
        assert processor.sequence_length(bare, hd) == expected


@pytest.mark.parametrize("return_tensors", [None, "pt"])
def test_too_long(processor, return_tensors):
    with pytest.raises(ValueError, match="Prompt 1 has 1[0-9]{3} tokens, but the decoder has 1024 positions"):
        processor(text=["short", "a" * 1100], return_tensors=return_tensors)
    # a processor of its own: transformers' tokenizers keep, and save, the truncation they were last called with
    own = FlashSlothProcessor(processor.image_processor, make_tokenizer(), 4, 3)
    with pytest.raises(ValueError, match="Truncation cut the image tokens of prompt 0"):
        own(images=make_image(), text="<image>\nHi", truncation=True, max_length=3)


def test_other_modalities(processor):
    with pytest.raises(ValueError, match="videos and audio are not supported"):
        processor(text="x", videos=[1])
    with pytest.raises(ValueError, match="Pass images, text or both"):
        processor()


def test_unprepared_tokenizer_is_refused(processor):
    raw = make_tokenizer()
    raw.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(ValueError, match="normalizer does not take out .*add_special_tokens"):
        FlashSlothProcessor(processor.image_processor, raw, 4, 3)
    with pytest.raises(ValueError, match="no special token '<query_3>'"):
        FlashSlothProcessor(processor.image_processor, make_tokenizer(), 4, 4)


def test_save_and_load(processor, chats, tmp_path):
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text().count("{%- generation -%}") == 1
    loaded = FlashSlothProcessor.from_pretrained(tmp_path)
    assert loaded.tokenizer.padding_side == "left"
    for chat in chats.values():
        for name, value in tokens(processor, chat, hd=True).items():
            assert torch.equal(value, tokens(loaded, chat, hd=True)[name]), name
