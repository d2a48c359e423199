# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A chat computes each turn once, and answers as if it had computed all of them each time."""

import pytest
import torch
from model_folders import error_of
from samples import make_image

import flashsloth
from flashsloth.assistant.assistant import Assistant
from flashsloth.assistant.torch_backend import TorchBackend
from flashsloth.loading import SHIPPED_CHECKPOINT


SCENE, WORDS = "examples/scene.png", "examples/small_text.png"


@pytest.fixture(scope="module")
def shipped():
    return flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32", device="cpu")


@pytest.fixture
def random_assistant(model, processor):
    return Assistant(TorchBackend(model, processor), processor)


def recomputed(assistant: Assistant, turns: list[dict], **options) -> list[int]:
    """The tokens of an answer to a whole conversation, computed at once."""
    inputs = assistant.processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = assistant.model.generate(**inputs, **options, do_sample=False)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def counted(model, monkeypatch) -> list[tuple[str, int]]:
    """What is computed from here on: views by the tower, positions by the decoder."""
    calls = []
    model.model.vision_tower.register_forward_pre_hook(lambda _, args: calls.append(("views", len(args[0]))))
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(("positions", kwargs["inputs_embeds"].shape[1])), with_kwargs=True
    )
    return calls


def test_turns_are_those_of_a_full_recompute(shipped):
    chat = shipped.chat()
    turns = [
        ("What colour is the square?", SCENE),
        ("What colour is the star?", None),
        ("Which word do you see?", [WORDS, SCENE]),
        ("And in the first image?", []),
    ]
    for question, images in turns:
        before = chat.messages
        answer = chat.ask(question, images)
        tokens = recomputed(shipped, [*before, chat.messages[-2]], max_new_tokens=256)
        assert answer.text == shipped.processor.decode(tokens, skip_special_tokens=True).strip(), question
        assert answer.num_tokens == len(tokens)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 4
    assert answer.visual_tokens == 9 * 3


def test_logits_of_a_turn_are_those_of_a_full_recompute(random_assistant):
    seen = []

    def keep(input_ids, scores):
        seen.append(scores.clone())
        return scores

    chat = random_assistant.chat()
    chat.ask("First?", make_image(0), max_new_tokens=5)
    chat.ask("Second?", [make_image(1)], max_new_tokens=5)
    seen.clear()
    chat.ask("Third?", max_new_tokens=1, logits_processor=[keep])
    turn = seen[0]
    prompt = chat._memory.input_ids[:, : chat._memory.input_ids.shape[1] - 2]
    features = {"image": chat._memory.features}
    with torch.inference_mode():
        whole = random_assistant.model(prompt, mm_encoder_outputs=features, logits_to_keep=1).logits[:, 0]
    suppressed = ~torch.isfinite(turn)
    assert torch.allclose(turn, whole.masked_fill(suppressed, -torch.inf), atol=1e-5)


def test_each_image_is_encoded_once_and_each_position_computed_once(random_assistant, monkeypatch):
    calls = counted(random_assistant.model, monkeypatch)
    chat = random_assistant.chat()
    first = chat.ask("What is this?", make_image(0), max_new_tokens=3, min_new_tokens=3)
    assert calls[0] == ("views", 1) and calls[1] == ("positions", first.prompt_tokens)
    calls.clear()
    second = chat.ask("And that?", make_image(1), max_new_tokens=2, min_new_tokens=2)
    new = second.prompt_tokens - first.prompt_tokens - 3
    assert calls == [("views", 1), ("positions", new + 1), ("positions", 1)]  # the last token had not been computed
    calls.clear()
    chat.ask("And now?", max_new_tokens=1)
    assert [kind for kind, _ in calls] == ["positions"]


def test_a_system_prompt_and_high_definition_stay(shipped):
    chat = shipped.chat(system="Be brief.", hd=True)
    assert chat.ask("What colour is the square?", SCENE).visual_tokens == 45
    chat.hd = False
    answer = chat.ask("Which word do you see?", WORDS, explain=True)
    assert answer.visual_tokens == 45 + 9
    assert chat.messages[0] == {"role": "system", "content": "Be brief."}
    assert [one.image.size for one in answer.attention] == [one.size for one in chat._images]
    assert sum(one.query_tokens.sum() for one in answer.attention) == pytest.approx(1, abs=0.02)


def test_a_stream_is_a_turn_too_and_may_be_left(shipped):
    chat = shipped.chat()
    with chat.stream("What colour is the square?", SCENE) as stream:
        pieces = list(stream)
    assert "".join(pieces) == "The square is red." == chat.messages[-1]["content"]
    with chat.stream("And the star?", min_new_tokens=2000, max_new_tokens=2000) as stream:
        next(stream)
    cut = stream.answer
    assert cut.finish_reason == "interrupted"
    assert chat.messages[-1]["content"] == cut.text
    # the turn that was left has ended for the model, too
    answer = chat.ask("What colour is the star?")
    prompt = chat._memory.input_ids[:, : answer.prompt_tokens]
    features = {"image": chat._memory.features}
    output = shipped.model.generate(prompt, mm_encoder_outputs=features, max_new_tokens=256)
    assert answer.text == shipped.processor.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip()


def test_an_answer_that_a_limit_cut_is_ended_for_the_next_turn(shipped):
    chat = shipped.chat()
    assert str(chat.ask("What colour is the square?", SCENE, max_new_tokens=2)) == "The square"
    answer = chat.ask("What colour is the star?")
    tokens = recomputed(shipped, chat.messages[:-1], max_new_tokens=256)
    assert answer.text == shipped.processor.decode(tokens, skip_special_tokens=True).strip()


def test_a_failed_turn_leaves_the_chat_as_it_was(random_assistant, shipped):
    chat = shipped.chat()
    chat.ask("What colour is the square?", SCENE)
    before = chat.messages
    limit = shipped.processor.tokenizer.model_max_length
    assert f"the decoder has {limit} positions: begin a new one" in error_of(chat.ask, "word " * (limit - 60))
    assert "does not exist" in error_of(chat.ask, "And this?", "nope.png")
    assert "is empty" in error_of(chat.ask, " ")

    def fail(input_ids, scores):
        raise ValueError("in the middle of an answer")

    assert "in the middle" in error_of(chat.ask, "What colour is the star?", logits_processor=[fail])
    assert chat.messages == before
    assert str(chat.ask("What colour is the star?")) == "The star is purple."
    chat.reset()
    assert chat.messages == [] and chat.ask("Hello?").visual_tokens == 0


def test_a_template_that_changes_earlier_turns_is_named(shipped, monkeypatch):
    chat = shipped.chat()
    chat.ask("Hello?", max_new_tokens=2)
    template = "{{ messages | length }}" + shipped.processor.chat_template
    monkeypatch.setattr(shipped.processor, "chat_template", template)
    assert "chat template changes earlier turns" in error_of(chat.ask, "And now?")


def test_the_next_question_ends_a_stream_that_nobody_reads(shipped):
    chat = shipped.chat()
    for _ in chat.stream("What colour is the square?", SCENE, min_new_tokens=500, max_new_tokens=500):
        break
    answer = chat.ask("Which digit is written by hand?")
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert answer.visual_tokens == 9 and answer.prompt_tokens < 500  # the image is in view, the rest was not made
    stream = chat.stream("And the star?", min_new_tokens=500, max_new_tokens=500)
    next(stream)
    chat.reset()
    assert stream.answer.finish_reason == "interrupted" and chat.messages == []
