# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What the backend returns of `generate`: rows without padding, and answers up to their end."""

import pytest
import torch
from samples import make_image, prepare, user

from flashsloth.assistant.stream import Watch
from flashsloth.assistant.torch_backend import TorchBackend


OPTIONS = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture
def backend(model, processor) -> TorchBackend:
    return TorchBackend(model, processor)


def test_rows_of_a_batch_are_those_of_one_by_one(backend, processor):
    chats = [[user(make_image(0), "What is this, and where is it?")], [user("Two?")], [user(make_image(1), "One?")]]
    end = backend.eos_token_ids[0]

    def end_early(input_ids, scores):  # at another step in each row
        scores[input_ids[:, -1] % 3 == 0] = -torch.inf
        scores[input_ids[:, -1] % 3 == 0, end] = 0
        return scores

    options = {**OPTIONS, "logits_processor": [end_early]}
    prompts, answers = backend.generate(prepare(processor, chats, padding=True), dict(options), Watch())
    for chat, prompt, answer in zip(chats, prompts, answers, strict=True):
        alone = backend.generate(prepare(processor, [chat]), dict(options), Watch())
        assert ([prompt], [answer]) == alone
        assert processor.tokenizer.pad_token_id not in [*prompt, *answer]
        assert len(answer) == 6 or answer[-1] == end


def test_a_watch_sees_each_step_and_stops_the_generation(backend, processor):
    seen = []
    watch = Watch(seen.append)
    inputs = prepare(processor, [[user(make_image(0), "What?")]])
    _, (answer,) = backend.generate(inputs, {**OPTIONS, "min_new_tokens": 6}, watch)
    assert seen == answer and len(watch.token_times) == 6

    watch = Watch(lambda token: setattr(watch, "is_stopped", len(watch.token_times) == 2))
    _, (answer,) = backend.generate(inputs, {**OPTIONS, "min_new_tokens": 6}, watch)
    assert answer == seen[:2]


def test_a_memory_holds_the_whole_sequence(backend, processor):
    memory = backend.new_memory()
    inputs = prepare(processor, [[user(make_image(0), "What?")]])
    (prompt,), (answer,) = backend.generate(inputs, dict(OPTIONS), Watch(), memory)
    ids = memory.input_ids[0].tolist()
    assert ids[: len(prompt) + len(answer)] == prompt + answer
    assert ids[-1] in backend.eos_token_ids
    assert memory.cache.get_seq_length() == len(prompt) + len(answer) - 1
    assert memory.features.view_mask.tolist() == [[1]]


def test_an_answer_ends_with_the_decoders_positions(backend, processor):
    limit = backend.model.config.text_config.max_position_embeddings
    inputs = prepare(processor, [[user("word " * 20)]])
    length = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": limit, "min_new_tokens": limit, "do_sample": False}
    (prompt,), (answer,) = backend.generate(inputs, options, Watch())
    assert len(prompt) == length and len(prompt) + len(answer) == limit
    full = {"input_ids": inputs["input_ids"][:, :1].repeat(1, limit)}
    full["attention_mask"] = torch.ones_like(full["input_ids"])
    with pytest.raises(ValueError, match=f"has {limit} tokens, which leaves no room for an answer"):
        backend.generate(type(inputs)(full), OPTIONS, Watch())
