# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Prompts and conversations become exactly the tokens that the model expects."""

import copy
import json

import numpy as np
import pytest
import torch
from samples import assistant, make_image, make_tokenizer, user
from tokenizers.normalizers import Lowercase
from transformers import AutoTokenizer

from flashsloth import FlashSlothImageProcessor, FlashSlothProcessor, processing_flashsloth
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
    assert set(raw) == set(templated) == set(processor.model_input_names)
    for name, value in raw.items():
        assert torch.equal(value, templated[name]), name
    views = 5 if hd else 1
    assert (raw["input_ids"] == 258).sum() == 2 * views * 4
    assert raw["pixel_values"].shape == (2 * views, 3, 24, 24)
    assert [i for i in raw["input_ids"][0].tolist() if i >= 260] == [260, 261, 262] * 2


def test_hd_is_the_checkpoints_default_and_can_be_overridden(processor):
    hd = FlashSlothProcessor(
        FlashSlothImageProcessor(size={"height": 24, "width": 24}, hd=True), processor.tokenizer, 4, 3
    )
    chat = [user(make_image(), "Hue?")]
    assert tokens(hd, chat)["pixel_values"].shape[0] == 5
    assert tokens(hd, chat, hd=False)["pixel_values"].shape[0] == 1
    assert tokens(hd, chat, processor_kwargs={"hd": False})["pixel_values"].shape[0] == 1


@pytest.mark.parametrize("images", [None, [], [[]]])
def test_text_only_has_no_images(processor, images):
    """Trainers of the field take a tensor that is there for one with images."""
    assert set(tokens(processor, [user("Hello")])) == {"input_ids", "attention_mask"}
    assert set(processor(images=images, text=["Hello"])) == {"input_ids", "attention_mask"}
    options = {"padding": True, "return_view_mask": True}
    assert set(tokens(processor, [user("Hello")], processor_kwargs=options)) == {"input_ids", "attention_mask"}
    mixed = tokens(processor, [[user("Hi")], [user(make_image(), "Hello")]], processor_kwargs=options)
    assert mixed["view_mask"].tolist() == [[0], [1]]


def test_batch_is_padded_on_the_left_and_counts_views_by_row(processor, chats):
    names = ["two images", "text only", "one image"]
    options = {"padding": True, "hd": True, "return_view_mask": True}
    batch = tokens(processor, [chats[name] for name in names], processor_kwargs=options)
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
        assert processor.tokenizer.decode([i for i in picked if i < 256]) == f" I see {SPECIAL}. End."


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


def test_none_stands_for_no_images(processor):
    """Trainers have a list of images or `None` for each row."""
    text = ["Hi", "<image>Hue?", "Hello"]
    expected = processor(images=[[], [make_image()], []], text=text)
    found = processor(images=[None, [make_image()], None], text=text)
    assert found["input_ids"] == expected["input_ids"]
    np.testing.assert_array_equal(found["pixel_values"], expected["pixel_values"])
    with pytest.raises(ValueError, match="Prompt 1 has 1 <image>, but 0 images"):
        processor(images=[[make_image()], None], text=["<image>", "<image>"])
    with pytest.raises(ValueError, match="image 1 .NoneType. is not an image"):
        processor(images=[make_image(), None], text=["<image>", "<image>"])


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
        assert processor.tokenizer.decode(picked) == expected


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


BAD_INPUT = {
    "no prompt": ({"text": []}, r"text is \[\]: pass a prompt, or a list of at least one"),
    "a number as a prompt": ({"text": 1}, "text is 1: pass a prompt"),
    "a list of numbers": ({"text": [1]}, "Prompt 0 is 1: a prompt is a string"),
    "None among prompts": ({"text": ["Hi", None]}, "Prompt 1 is None: a prompt is a string"),
    "words in place of prompts": ({"text": [["Hi", "there"]]}, "Prompt 0 is .* a prompt is a string"),
    "a lone surrogate": ({"text": "a\ud800"}, "Prompt 0 has the lone surrogate .* at position 1"),
    "a lone surrogate in a message": ({"text": None, "chat": [user("a\udfff")]}, "message 0 has the lone surrogate"),
    "a video": ({"text": "Hi", "videos": ["a.mp4"]}, "videos and audio are not supported"),
    "audio": ({"text": "Hi", "audio": ["a.wav"]}, "videos and audio are not supported"),
    "nothing": ({"text": None}, "Pass images, text or both"),
    "an image that no prompt names": ({"text": "Hi", "images": make_image()}, "0 <image> .* but 1 images"),
    "a view of another size": (
        {"text": "<image>", "images": make_image(), "size": {"height": 48, "width": 48}},
        "size",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_prompts_that_cannot_be_taken(processor, case):
    inputs, message = BAD_INPUT[case]
    inputs = dict(inputs)
    chat = inputs.pop("chat", None)
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(chat, tokenize=True) if chat else processor(**inputs)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_the_number_of_tiles_is_honoured(processor, grid, nested):
    options = {"hd": True, "tile_grid": grid}
    options = {"images_kwargs": options} if nested else options
    images, text = [make_image(0), make_image(1)], ["<image><image>Hue?<learnable>"]
    inputs = processor(images=images, text=text, return_view_mask=True, **options)
    views = 2 * (1 + grid**2)
    assert len(inputs["pixel_values"]) == views == np.sum(inputs["view_mask"])
    assert inputs["input_ids"][0].count(processor.image_token_id) == views * processor.num_visual_tokens


def test_hd_unset_is_the_checkpoint_s(processor):
    expected = processor(images=make_image(), text="<image>")
    unset = processor(images=make_image(), text="<image>", hd=None)
    assert unset["input_ids"] == expected["input_ids"]
    assert np.array_equal(unset["pixel_values"], expected["pixel_values"])


def test_the_tokenizer_alone_renders_the_processor_s_prompt(processor, tmp_path):
    """`pipeline("text-generation")` has no processor: its prompt holds the query tokens already."""
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    chat.append({"role": "user", "content": "How are you?"})
    expected = tokens(processor, chat)["input_ids"][0].tolist()
    processor.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == expected
    assert "<learnable>" in processor.apply_chat_template(chat)


def test_a_tokenizer_s_folder_names_no_code(processor, tmp_path):
    processor.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "tokenizer")
    for folder in ("model", "tokenizer"):
        assert "auto_map" not in json.loads((tmp_path / folder / "tokenizer_config.json").read_text())
    assert "auto_map" in json.loads((tmp_path / "model" / "processor_config.json").read_text())


def test_special_tokens_that_a_user_added(processor, tmp_path):
    """They work in messages, before the processor is saved and after; FlashSloth's own tokens stay text there."""
    processor = copy.deepcopy(processor)
    processor.tokenizer.add_tokens(["<spot>"], special_tokens=True)
    chat = [user("Where is <spot> in <image>?")]
    before = tokens(processor, chat)["input_ids"][0].tolist()
    assert before.count(processor.tokenizer.convert_tokens_to_ids("<spot>")) == 1
    processor.save_pretrained(tmp_path)
    again = FlashSlothProcessor.from_pretrained(tmp_path)
    assert tokens(again, chat)["input_ids"][0].tolist() == before
    assert processor.image_token_id not in before


@pytest.fixture
def warned(monkeypatch):
    """The warnings of the processor."""
    messages = []
    monkeypatch.setattr(processing_flashsloth.logger, "warning_once", messages.append)
    return messages


def test_warnings_name_the_remedy(processor, warned, chats):
    processor(images=make_image(), text="USER: <image>\nHue?<learnable> ASSISTANT:")
    processor(text="Hue?")
    tokens(processor, chats["one image"])
    tokens(processor, chats["text only"], hd=True)
    assert not warned
    processor(images=make_image(), text="USER: <image>\nHue? ASSISTANT:")
    assert "write <learnable> right behind the question" in warned.pop()
    tokens(processor, chats["one image"], hd=True)
    assert "Leave hd out, or take a checkpoint that was trained with hd" in warned.pop()
    processor = copy.deepcopy(processor)
    processor.image_processor.hd = True
    tokens(processor, chats["one image"], hd=True)
    tokens(processor, chats["one image"], hd=False)
    assert not warned


def test_answers_do_not_begin_with_a_space(processor):
    ids = processor.tokenizer(" The square is  red.")["input_ids"]
    assert processor.decode(ids) == "The square is  red."
    assert processor.batch_decode([ids, ids]) == ["The square is  red."] * 2
    prompt = processor.tokenizer("USER: Hue? ASSISTANT:")["input_ids"]
    texts = processor.post_process_image_text_to_text([prompt, prompt + ids])
    assert texts[1].removeprefix(texts[0]) == "The square is  red."


@pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
def test_view_mask_has_a_name_but_is_no_key(processor, return_tensors):
    """Trainers hand all keys on, and know no such one; users may ask for it all the same."""
    text = ["<image><image>Hue?<learnable>", "<image>Hue?<learnable>", "Hue?<learnable>"]
    images = [make_image(index) for index in range(3)]
    options = {"images": images, "text": text, "padding": True, "return_tensors": return_tensors}
    inputs = processor(**options)
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"} == set(dict(inputs))
    expected = processor(**options, return_view_mask=True)["view_mask"]
    assert np.array_equal(inputs["view_mask"], expected) and np.array_equal(expected, [[1, 1], [1, 0], [0, 0]])
    assert isinstance(inputs["view_mask"], torch.Tensor if return_tensors == "pt" else np.ndarray)
    for without in (processor(text=text[2]), processor(images=images)):
        with pytest.raises(KeyError, match="view_mask"):
            without["view_mask"]


@pytest.mark.parametrize("tokens", [[""], "<image>", [1], {"<image>": 1}])
def test_escaped_tokens_that_are_none(processor, tokens):
    with pytest.raises(ValueError, match="escaped_tokens is .*: pass a list of tokens"):
        FlashSlothProcessor(processor.image_processor, processor.tokenizer, 4, 3, escaped_tokens=tokens)


def test_the_name_of_hd_in_other_libraries(processor):
    views = processor(images=make_image(), text="<image>", crop_to_patches=True)["pixel_values"]
    assert len(views) == 5
    with pytest.raises(ValueError, match="hd=False and crop_to_patches=True contradict"):
        processor(images=make_image(), text="<image>", crop_to_patches=True, hd=False)
