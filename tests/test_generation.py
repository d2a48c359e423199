# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`generate` in all its forms gives the answer that plain greedy decoding, one prompt at a time, gives."""

import warnings

import pytest
import torch
from samples import assistant, make_image, make_model, prepare, user
from torch.nn import functional as F
from transformers import CompileConfig, DynamicCache, TextIteratorStreamer

from flashsloth.modeling_flashsloth import CACHE_NAME


NEW_TOKENS = 12


def answer(model, inputs, **kwargs):
    kwargs = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **kwargs}
    return model.generate(**inputs, **kwargs)[:, inputs["input_ids"].shape[1] :]


def until_end(ids, config):
    ids = ids.tolist()
    return ids[: ids.index(config.eos_token_id)] if config.eos_token_id in ids else ids


def test_the_test_model_tells_prompts_apart(model, processor, chats):
    answers = {name: tuple(answer(model, prepare(processor, chat))[0].tolist()) for name, chat in chats.items()}
    assert len(set(answers.values())) == len(answers)


def test_the_answer_depends_on_the_image_through_the_query_module(model, processor):
    inputs = prepare(processor, [user(make_image(0), "What is this?")])
    with torch.no_grad():
        before = model(**inputs).logits[:, -1]
        model.model.embedded_query.patch_attention.v_proj.weight.neg_()
        after = model(**inputs).logits[:, -1]
    assert (before - after).abs().max() > 1e-2


@pytest.mark.parametrize("hd", [False, True])
def test_batched_equals_single(model, processor, chats, hd):
    conversations = list(chats.values())
    batched = answer(model, prepare(processor, conversations, hd=hd))
    for conversation, row in zip(conversations, batched, strict=True):
        single = answer(model, prepare(processor, conversation, hd=hd))[0]
        assert until_end(row, model.config) == until_end(single, model.config)


def test_standard_and_hd_views_in_one_batch(model, processor, chats):
    standard = prepare(processor, chats["one image"])
    hd = prepare(processor, chats["two images"], hd=True)
    length = hd["input_ids"].shape[1]
    missing = length - standard["input_ids"].shape[1]
    pad = model.config.pad_token_id
    mixed = {
        "input_ids": torch.cat([F.pad(standard["input_ids"], (missing, 0), value=pad), hd["input_ids"]]),
        "attention_mask": torch.cat([F.pad(standard["attention_mask"], (missing, 0)), hd["attention_mask"]]),
        "pixel_values": torch.cat([standard["pixel_values"], hd["pixel_values"]]),
        # a pipeline pads on the tokenizer's side, which is the left
        "view_mask": torch.cat([F.pad(standard["view_mask"], (9, 0)), hd["view_mask"]]),
    }
    rows = answer(model, mixed)
    assert until_end(rows[0], model.config) == until_end(answer(model, standard)[0], model.config)
    assert until_end(rows[1], model.config) == until_end(answer(model, hd)[0], model.config)


def test_cached_equals_uncached(model, processor, chats):
    inputs = prepare(processor, list(chats.values()))
    assert torch.equal(answer(model, inputs), answer(model, inputs, use_cache=False))


def test_static_cache(model, processor, chats):
    inputs = prepare(processor, list(chats.values()))
    assert torch.equal(answer(model, inputs), answer(model, inputs, cache_implementation="static"))


def test_prompt_lookup(model, processor, chats):
    for conversation in chats.values():
        inputs = prepare(processor, conversation)
        assert torch.equal(answer(model, inputs), answer(model, inputs, prompt_lookup_num_tokens=4))


def test_assistant_model(model, processor, chats):
    assistant_model = make_model(seed=1)
    for name in ("one image", "text only", "turns"):
        inputs = prepare(processor, chats[name])
        assert torch.equal(answer(model, inputs), answer(model, inputs, assistant_model=assistant_model))


def test_beams_batched_equal_single(model, processor, chats):
    conversations = [chats[name] for name in ("two images", "text only", "image per turn", "one image")]
    inputs = prepare(processor, conversations)
    batched = answer(model, inputs, num_beams=3)
    for conversation, row in zip(conversations, batched, strict=True):
        single = answer(model, prepare(processor, conversation), num_beams=3)[0]
        assert until_end(row, model.config) == until_end(single, model.config)


def test_num_return_sequences_belong_to_their_prompts(model, processor, chats):
    conversations = [chats["two images"], chats["one image"]]
    rows = answer(model, prepare(processor, conversations), num_beams=3, num_return_sequences=3)
    assert rows.shape[0] == 6
    for index, conversation in enumerate(conversations):
        alone = answer(model, prepare(processor, conversation), num_beams=3, num_return_sequences=3)
        for row, expected in zip(rows[3 * index : 3 * index + 3], alone, strict=True):
            assert until_end(row, model.config) == until_end(expected, model.config)


def test_sampling_is_seeded_and_varies(model, processor, chats):
    inputs = prepare(processor, chats["one image"])

    def sample(seed):
        torch.manual_seed(seed)
        return answer(model, inputs, do_sample=True, temperature=2.0).tolist()

    assert sample(0) == sample(0)
    assert len({str(sample(seed)) for seed in range(4)}) > 1


def test_streamer_gives_the_text_of_generate(model, processor, chats):
    inputs = prepare(processor, chats["one image"])
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = answer(model, inputs, streamer=streamer)
    assert "".join(streamer) == processor.batch_decode(ids, skip_special_tokens=True)[0]


def test_stop_strings(model, processor, chats):
    inputs = prepare(processor, chats["one image"])
    text = processor.batch_decode(answer(model, inputs))[0]
    stop = text[3]
    ids = answer(model, inputs, stop_strings=[stop], tokenizer=processor.tokenizer)
    stopped = processor.batch_decode(ids)[0]
    assert stopped == text[: len(stopped)] and stopped.endswith(stop) and stopped.count(stop) == 1


def test_placeholders_are_never_generated(model, processor, chats):
    inputs = prepare(processor, list(chats.values()))
    placeholders = torch.tensor(model.config.placeholder_token_ids)
    # without the suppression the test model would emit them: its head is biased towards them here
    with torch.no_grad():
        model.lm_head.bias[placeholders] += 100
    assert not torch.isin(answer(model, inputs, eos_token_id=-1), placeholders).any()
    first = answer(model, inputs, eos_token_id=-1)[:, 0].unique()
    others = answer(model, inputs, eos_token_id=-1, suppress_tokens=first.tolist())
    assert not torch.isin(others, torch.cat([placeholders, first])).any()
    assert torch.isin(answer(model, inputs, suppress_tokens=None, eos_token_id=-1), placeholders).any()


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_goes_by_its_name_before_and_since_transformers_5_24(model, processor, chats, name):
    inputs = prepare(processor, chats["one image"])
    cache = DynamicCache(config=model.config.text_config)
    assert torch.equal(answer(model, inputs, **{name: cache}), answer(model, inputs))
    assert cache.get_seq_length() == inputs["input_ids"].shape[1] + NEW_TOKENS - 1
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        output = model(**inputs, **{name: cache})
        backbone_output = model.model(**inputs, **{name: DynamicCache(config=model.config.text_config)})
    assert output[CACHE_NAME] is cache and cache.get_seq_length() == inputs["input_ids"].shape[1]
    assert backbone_output[CACHE_NAME].get_seq_length() == inputs["input_ids"].shape[1]


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 2}, {"use_cache": False}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 4}],
    ids=str,
)
def test_generation_prints_nothing(model, processor, chats, options, capfd):
    """A deprecation would stand between the words of a streamed answer."""
    inputs = prepare(processor, chats["one image"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer(model, inputs, **options)
        if not options:
            answer(model, inputs, cache=DynamicCache(config=model.config.text_config))
    printed = capfd.readouterr()
    assert [str(warning.message) for warning in caught] == []
    assert printed.out + printed.err == ""


@pytest.mark.parametrize("encoded", [False, True], ids=["pixels", "encoded images"])
@pytest.mark.parametrize("new_image", [False, True], ids=["same image", "another image"])
def test_follow_up_turn_on_the_kept_cache_equals_recompute(model, processor, encoded, new_image):
    first = [user(make_image(0), "A bird?")]
    inputs = prepare(processor, first)
    cache = DynamicCache(config=model.config.text_config)
    out = model.generate(**inputs, cache=cache, max_new_tokens=4, do_sample=False)
    reply = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    # the random model's bytes rarely decode to text that encodes to them again; such a turn tests nothing
    parts = [make_image(1), "And here?"] if new_image else ["And where?"]
    chat = [*first, assistant(reply), user(*parts)]
    inputs = prepare(processor, chat)
    kept = cache.get_seq_length()
    inputs["input_ids"] = torch.cat([out[:, :kept], _new_turn_ids(processor, chat)], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs = dict(inputs)
    if encoded:
        features = model.get_image_features(inputs.pop("pixel_values"), inputs.pop("view_mask"))
        inputs["mm_encoder_outputs"] = {"image": features}

    recomputed = answer(model, inputs)
    calls = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    followed = answer(model, inputs, cache=cache)
    hook.remove()
    assert calls[0] == inputs["input_ids"].shape[1] - kept  # only the new turn was computed
    assert torch.equal(followed, recomputed)


def test_padding_between_turns_changes_nothing(model, processor):
    """Rows of a batch that end early have it between their `</s>` and the next turn."""
    inputs = dict(prepare(processor, [[user(make_image(0), "A bird?"), assistant("Yes.")]]))
    turn = torch.tensor([[*b"USER:", *b" And where?", *model.config.query_token_ids, 65]])
    padding = torch.full((1, 3), model.config.pad_token_id)
    logits = []
    for between in (padding, padding[:, :0]):
        input_ids = torch.cat([inputs["input_ids"], between, turn], dim=1)
        mask = (input_ids != model.config.pad_token_id).long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        batch = {**inputs, "input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
        with torch.no_grad():
            logits.append(model(**batch).logits[:, -1])
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_follow_up_turn_without_the_images_is_refused(model, processor):
    inputs = prepare(processor, [user(make_image(0), "A bird?")])
    cache = DynamicCache(config=model.config.text_config)
    out = model.generate(**inputs, cache=cache, max_new_tokens=4, do_sample=False)
    chat = [user(make_image(0), "A bird?"), assistant("x"), user("And where?")]
    input_ids = torch.cat([out[:, : cache.get_seq_length()], _new_turn_ids(processor, chat)], dim=1)
    with pytest.raises(ValueError, match="Pass all images of the conversation again"):
        model.generate(input_ids, cache=cache, max_new_tokens=4)


def _new_turn_ids(processor, chat):
    """`</s>` and all that follows the last assistant message."""
    ids = prepare(processor, chat)["input_ids"]
    end = (ids[0] == processor.tokenizer.eos_token_id).nonzero()[-1].item()
    return ids[:, end:]


def test_encoded_images_replace_pixels(model, processor, chats):
    inputs = dict(prepare(processor, [chats["two images"], chats["one image"]]))
    expected = answer(model, inputs)
    features = model.get_image_features(inputs.pop("pixel_values"), inputs.pop("view_mask"))
    model.model.vision_tower = None  # would fail if anything were encoded again
    for _ in range(2):
        assert torch.equal(answer(model, {**inputs, "mm_encoder_outputs": {"image": features}}), expected)


def test_compiled_decode(model, processor, chats):
    inputs = prepare(processor, [chats["two images"], chats["text only"], chats["turns"]])
    compile_config = CompileConfig(fullgraph=True, dynamic=False, backend="aot_eager", mode=None)
    compile_config._compile_all_devices = True  # `generate` alone would compile on accelerators only
    compiled = answer(model, inputs, cache_implementation="static", compile_config=compile_config)
    assert torch.equal(compiled, answer(model, inputs))
    assert model._last_compile_config == compile_config


def test_chunked_prefill_is_refused(model, processor, chats):
    with pytest.raises(ValueError, match="no prefill_chunk_size"):
        answer(model, prepare(processor, chats["one image"]), prefill_chunk_size=16)


@pytest.mark.parametrize("hd", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_placeholders_say_which_images_are_whose(model, processor, chats, hd, options):
    inputs = dict(prepare(processor, list(chats.values()), hd=hd))
    expected = answer(model, inputs, **options)
    del inputs["view_mask"]
    assert torch.equal(answer(model, inputs, **options), expected)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}])
def test_embeddings_answer_as_their_ids(model, processor, chats, options):
    inputs = dict(prepare(processor, list(chats.values())))
    expected = answer(model, inputs, **options)
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **options}
    assert torch.equal(model.generate(inputs_embeds=embeddings, **inputs, **options), expected)


@pytest.mark.parametrize(
    "images", [{"pixel_values": None, "view_mask": None}, {"pixel_values": torch.zeros(0, 3, 24, 24)}]
)
def test_no_images_are_as_good_as_a_missing_argument(model, processor, chats, images):
    inputs = {**prepare(processor, [user("What is this?")])}
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    images = images | {"mm_encoder_outputs": None}
    assert torch.equal(answer(model, text | images), answer(model, text))
    with torch.no_grad():
        assert torch.equal(model(**text, **images).logits, model(**text).logits)


def test_assistant_model_without_view_mask(model, processor, chats):
    inputs = dict(prepare(processor, chats["two images"]))
    expected = answer(model, inputs)
    del inputs["view_mask"]
    assert torch.equal(answer(model, inputs, assistant_model=make_model(seed=1)), expected)
