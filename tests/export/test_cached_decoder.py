# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The decoder that writes its own cache gives the tokens and logits of `generate`, in torch."""

import pytest
import torch
from program_loop import ProgramLoop
from samples import make_config, make_image, make_model, prepare, user

from flashsloth import FlashSlothImageProcessor, FlashSlothProcessor
from flashsloth.export.cached_decoder import CachedDecoder
from flashsloth.export.graphs import VisionEncoder


MAX_LENGTH = 512
NUM_TOKENS = 6


def generate(model, inputs) -> tuple[list[int], torch.Tensor]:
    """The tokens of the answer, and the logits of each."""
    options = {
        "max_new_tokens": NUM_TOKENS,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    output = model.generate(**inputs, **options)
    return output.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.cat(output.logits)


def new_loop(model) -> ProgramLoop:
    decoder = CachedDecoder(model, MAX_LENGTH)
    return ProgramLoop(VisionEncoder(model), lambda *inputs: [decoder(*inputs)], model.config)


@torch.no_grad()
@pytest.mark.parametrize("hd", [False, True])
def test_answers_are_those_of_generate(model, processor, chats, hd):
    expected = {}
    for name, chat in chats.items():
        inputs = prepare(processor, [chat], hd=hd)
        expected[name] = inputs, *generate(model, inputs)
    loop = new_loop(model)
    for inputs, tokens, logits in expected.values():
        loop.position, loop.images, loop.answer_logits = 0, None, []  # the buffers still hold the conversation before
        assert loop.ask(inputs["input_ids"], inputs.get("pixel_values"), NUM_TOKENS) == tokens
        torch.testing.assert_close(torch.stack(loop.answer_logits), logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_next_turn_goes_on_behind_the_cache(model, processor):
    first = prepare(processor, [[user(make_image(0), "What is this?")]])
    second = processor(
        images=make_image(1), text="USER: <image>\nAnd this?<learnable> ASSISTANT:", return_tensors="pt"
    )
    loop = new_loop(model)
    answer = loop.ask(first["input_ids"], first["pixel_values"], NUM_TOKENS)
    # the last token of an answer is not in the cache yet, and one that was cut short gets its end
    end = [] if answer[-1] in model.config.eos_token_ids else model.config.eos_token_ids[:1]
    rest = torch.cat([torch.tensor([[answer[-1], *end]]), second["input_ids"]], dim=1)
    later = loop.ask(rest, second["pixel_values"], NUM_TOKENS)

    whole = {
        "input_ids": torch.cat([first["input_ids"], torch.tensor([answer[:-1]]), rest], dim=1),
        "pixel_values": torch.cat([first["pixel_values"], second["pixel_values"]]),
        "view_mask": torch.ones(1, 2, dtype=torch.long),
    }
    assert later == generate(model, whole)[0]


@torch.no_grad()
@pytest.mark.parametrize(
    "overrides",
    [
        {"num_query_tokens": 0, "query_base_token_id": None},
        {"pooling_mode": "none"},
        {"text_config": {"num_key_value_heads": 2}},
    ],
)
def test_other_models(processor, overrides):
    model = make_model(make_config(**overrides))
    image_processor = FlashSlothImageProcessor(size={"height": 24, "width": 24})
    own = FlashSlothProcessor(
        image_processor, processor.tokenizer, model.config.num_visual_tokens, model.config.num_query_tokens
    )
    inputs = prepare(own, [[user(make_image(0), "What is this?")]])
    tokens, _ = generate(model, inputs)
    assert new_loop(model).ask(inputs["input_ids"], inputs["pixel_values"], NUM_TOKENS) == tokens
