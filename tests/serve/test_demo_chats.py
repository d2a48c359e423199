# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A page shows what the model says in a chat; uploads alone are opened, and no more is kept than is allowed."""

from pathlib import Path

import pytest
from model_folders import error_of
from PIL import Image

import flashsloth
from flashsloth.serve.demo_chats import Conversation, Conversations, Limits, read_uploads


ROOT = Path(flashsloth.__file__).parent
COLOUR, DIGIT = "What colour is the square?", "Which digit is written by hand? Answer briefly."


@pytest.fixture(scope="module")
def assistant():
    """The shipped model."""
    return flashsloth.load(ROOT / "checkpoints" / "flashsloth-tiny", dtype="float32")


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.open(ROOT / "examples" / "scene.png").convert("RGB")


@pytest.fixture
def conversation(assistant, tmp_path) -> Conversation:
    return Conversation("tiny", assistant, tmp_path)


def texts(conversation: Conversation) -> list[tuple[str, str]]:
    """Who said what."""
    return [(message["role"], message["content"][-1]["text"]) for message in conversation.messages]


def answered(conversation: Conversation, question: str, images=(), **options) -> list[str]:
    """The last message after each step of an answer."""
    return [texts(conversation)[-1][1] for _ in conversation.ask(question, images, **options)]


def test_the_page_shows_a_chat(conversation, assistant, scene):
    steps = answered(conversation, COLOUR, [scene], explain=True)
    answered(conversation, DIGIT, explain=True)
    chat = assistant.chat()
    expected = [str(chat.ask(COLOUR, scene)), str(chat.ask(DIGIT))]
    assert texts(conversation) == [
        ("user", COLOUR),
        ("assistant", expected[0]),
        ("user", DIGIT),
        ("assistant", expected[1]),
    ]
    assert len(set(steps)) > 3 and all(steps[-1].startswith(step) for step in steps[1:])  # word by word
    shown = Image.open(conversation.messages[0]["content"][0]["path"])
    assert shown.size == scene.size
    assert [image.size for image in conversation.overlays("pooling")] == [scene.size]
    assert conversation.facts.startswith("9 visual tokens; first token after")


def test_one_scale_of_colours_for_all_images(conversation, scene):
    answered(conversation, COLOUR, [scene, Image.new("RGB", (40, 30), "white")], explain=True)
    densities = [image.density() for image in conversation.attention]
    least = min(range(2), key=lambda index: densities[index].max())
    assert densities[least].max() < densities[1 - least].max()
    alone = conversation.attention[least].overlay()
    assert conversation.overlays("query_tokens")[least].tobytes() != alone.tobytes()


def test_a_stopped_answer_stays_as_far_as_it_went(conversation, scene):
    steps = conversation.ask(COLOUR, [scene], min_new_tokens=500, max_new_tokens=500)
    for _ in range(4):
        next(steps)
    conversation.stop()
    list(steps)
    assert conversation.facts.endswith("; stopped")
    (_, _), (_, answer) = texts(conversation)
    assert conversation.chat.messages[-1] == {"role": "assistant", "content": answer}
    assert answered(conversation, DIGIT)[-1] == "4"


def test_an_error_is_a_message_and_the_chat_goes_on(conversation, scene):
    steps = answered(conversation, "word " * 3000, [scene])
    assert steps[-1].startswith("⚠️ Prompt 0 has 3048 tokens") and "positions" in steps[-1]
    assert conversation.attention == [] and conversation.facts == ""
    assert conversation.chat.messages == []
    conversation.refuse("What?", ValueError("The image\n'a.png' is bad."))
    assert texts(conversation)[-2:] == [("user", "What?"), ("assistant", "⚠️ The image 'a.png' is bad.")]
    assert answered(conversation, COLOUR, [scene])[-1] == "The square is red."


def test_text_is_shown_as_it_is(conversation):
    message = conversation.say("  <b> & 'c'\n")
    assert message["content"] == [{"type": "text", "text": "  &lt;b&gt; &amp; 'c'\n"}]


# Uploads


def test_large_uploads_are_made_smaller(tmp_path):
    Image.new("RGB", (3000, 1000)).save(tmp_path / "wide.png")
    Image.new("RGB", (30, 10)).save(tmp_path / "small.png")
    images = read_uploads([str(tmp_path / "wide.png"), str(tmp_path / "small.png")], tmp_path, Limits(side=300))
    assert [image.size for image in images] == [(300, 100), (30, 10)]


def test_nothing_but_uploads_is_opened(tmp_path):
    folder, secret = tmp_path / "uploads", tmp_path / "secret.png"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(secret)
    (folder / "link.png").symlink_to(secret)
    for path in (secret, folder / "link.png", folder / ".." / "secret.png", "/etc/passwd", "http://127.0.0.1/a.png"):
        message = error_of(read_uploads, [str(path)], folder, Limits())
        assert message == f"The image '{Path(path).name}' was not uploaded here: upload it."
    (folder / "notes.png").write_text("not an image")
    assert "The image 'notes.png' is not in a format" in error_of(
        read_uploads, [str(folder / "notes.png")], folder, Limits()
    )
    assert "takes 2 images, not 3" in error_of(read_uploads, ["a", "b", "c"], folder, Limits(images=2))


# What is kept


@pytest.fixture
def conversations(assistant, tmp_path) -> Conversations:
    return Conversations({"tiny": assistant, "other": assistant}, tmp_path, Limits(conversations=2))


def test_a_page_goes_on_with_its_conversation(conversations):
    first = conversations.begin("page", "tiny")
    assert conversations.begin("page", "tiny") is first and conversations.of("page") is first
    assert conversations.begin("other page", "tiny") is not first
    assert conversations.begin("page", "other") is not first  # which never heard what was said
    assert first.is_closed


def test_the_most_silent_conversation_gives_way_and_its_page_is_told(conversations):
    first, second = (conversations.begin(page, "tiny") for page in ("first", "second"))
    conversations.begin("first", "tiny")
    conversations.begin("third", "tiny")
    assert second.is_closed and not first.is_closed and len(conversations) == 2
    ((role, text),) = texts(conversations.begin("second", "tiny"))
    assert role == "assistant" and "had to give way" in text
    conversations.end("second")
    assert texts(conversations.begin("second", "tiny")) == []


def test_the_end_of_a_page_frees_its_files(conversations, scene, tmp_path):
    conversation = conversations.begin("page", "tiny")
    conversation.say("look", "user", [scene])
    assert list(tmp_path.rglob("*.png"))
    conversations.end("page")
    conversations.end("page")
    assert conversations.of("page") is None and not list(tmp_path.iterdir())
