# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What users of transformers expect of every model and processor, whatever the batch holds: each argument is honoured
or refused. The files of the modules have what is FlashSloth's own.
"""

import copy
import json

import numpy as np
import pytest
import torch
from samples import assistant, make_config, make_image, make_model, make_tokenizer, prepare, user
from torch.nn import functional as F
from transformers import AutoProcessor

from flashsloth import FlashSlothForCausalLM, FlashSlothImageProcessor, FlashSlothModel, FlashSlothProcessor
from flashsloth.modeling_flashsloth import CACHE_NAME


IGNORED = -100
NEW_TOKENS = 6
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
BATCHES = {
    "one image": [[user(make_image(0), "What is this?")]],
    "several images": [[user(make_image(1), make_image(2), "Which is larger?")]],
    "no image": [[user("Name a prime number.")]],
    "a mix": [
        [user(make_image(3), make_image(4), "Which is larger?")],
        [user("Name a prime number, please.")],
        [user(make_image(5), "Hue?")],
    ],
}
PROMPT = "USER: <image>\nHue?<learnable> ASSISTANT:"
CHAT = [user(make_image(), "Hue?"), assistant("Red."), user("Sure?")]


@pytest.fixture(params=BATCHES)
def inputs(request, processor):
    """A batch as the processor makes it."""
    return dict(prepare(processor, BATCHES[request.param], return_view_mask=False))


@pytest.fixture
def mixed(processor):
    return dict(prepare(processor, BATCHES["a mix"], return_view_mask=False))


def logits_of(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs).logits


def labels_of(inputs):
    return inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)


# The model


@pytest.mark.parametrize("reduction", ["mean", "given number", "shifted labels", "other index"])
def test_loss_is_the_cross_entropy_of_the_next_tokens(model, inputs, reduction):
    logits, labels = logits_of(model, inputs), labels_of(inputs)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    count = (labels[:, 1:] != IGNORED).sum()
    options = {}
    if reduction == "given number":  # of tokens in all the batches of a step
        count = options["num_items_in_batch"] = torch.tensor(77)
    elif reduction == "shifted labels":
        options["shift_labels"] = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    elif reduction == "other index":
        labels, options["ignore_index"] = labels.masked_fill(labels == IGNORED, 319), 319
    torch.testing.assert_close(model(**inputs, labels=labels, **options).loss, expected / count, **CLOSE)


@pytest.mark.parametrize("kept", [1, 4, torch.tensor([0, 3, 7])], ids=str)
def test_logits_to_keep(model, inputs, kept):
    logits = logits_of(model, inputs)
    expected = logits[:, -kept:] if isinstance(kept, int) else logits[:, kept]
    torch.testing.assert_close(logits_of(model, inputs, logits_to_keep=kept), expected, **CLOSE)


@pytest.mark.parametrize("way", ["argument", "configuration"])
def test_output_as_a_tuple(model, inputs, way):
    expected = logits_of(model, inputs)
    options = {"return_dict": False} if way == "argument" else {}
    model.config.return_dict = way == "argument"
    with torch.no_grad():
        output, backbone_output = model(**inputs, **options), model.model(**inputs, **options)
        with_loss = model(**inputs, labels=labels_of(inputs), **options)
    assert isinstance(output, tuple) and isinstance(backbone_output, tuple)
    torch.testing.assert_close(output[0], expected)
    torch.testing.assert_close(model.lm_head(backbone_output[0]), expected)
    assert with_loss[0].ndim == 0 and torch.equal(with_loss[1], output[0])
    generated = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 2


def test_cache_on_request(model, inputs):
    with torch.no_grad():
        assert model(**inputs, use_cache=False).get(CACHE_NAME) is None
        cached = model(**inputs, use_cache=True)
    assert cached[CACHE_NAME].get_seq_length() == inputs["input_ids"].shape[1]
    torch.testing.assert_close(cached.logits, logits_of(model, inputs, use_cache=False))


@pytest.mark.parametrize("form", ["none", "bool", "four axes"])
def test_forms_of_the_attention_mask(model, inputs, form):
    mask = inputs["attention_mask"].bool()
    expected = logits_of(model, inputs)[mask]
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    forms = {"none": None, "bool": mask, "four axes": causal & mask[:, None, None, :]}
    found = logits_of(model, {**inputs, "attention_mask": forms[form]})[mask]
    if form != "none" or mask.all():
        torch.testing.assert_close(found, expected, **CLOSE)
    else:  # padding is attended to then
        assert not torch.allclose(found, expected, **CLOSE)


def test_position_ids(model, inputs):
    mask = inputs["attention_mask"]
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    expected, real = logits_of(model, inputs), mask.bool()
    found = logits_of(model, inputs, position_ids=positions)
    # rotary positions are relative: the padding in front shifts a whole row
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits_of(model, inputs, position_ids=2 * positions)[real], expected[real], atol=1e-3)


def test_hidden_states_end_in_the_logits(model, inputs):
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    assert len(output.hidden_states) == model.config.text_config.num_hidden_layers + 1
    torch.testing.assert_close(model.lm_head(output.hidden_states[-1]), output.logits)
    assert model(**inputs).hidden_states is None


def test_attentions_are_causal_and_sum_to_one(model, inputs):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    length, real = inputs["input_ids"].shape[1], inputs["attention_mask"].bool()
    assert len(output.attentions) == model.config.text_config.num_hidden_layers
    for attentions in output.attentions:
        assert attentions.shape[-2:] == (length, length)
        rows, later = attentions.transpose(1, 2)[real], attentions.triu(1).transpose(1, 2)[real]
        assert later.abs().max() == 0
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))


def test_evaluation_is_deterministic_and_dropout_is_for_training(inputs):
    model = make_model(make_config(pooling_dropout=0.5, text_config={"resid_pdrop": 0.5}))
    assert torch.equal(logits_of(model, inputs), logits_of(model, inputs))
    model.train()
    assert not torch.equal(logits_of(model, inputs), logits_of(model, inputs))


@pytest.mark.parametrize("shape", [(1, 2, 3, 24, 24), (2, 3, 30, 24), (2, 1, 24, 24), (3, 24, 24)])
def test_pixels_of_another_shape_are_refused(model, processor, shape):
    inputs = prepare(processor, BATCHES["several images"], return_view_mask=False)
    with pytest.raises(ValueError, match=r"pixel_values is of shape .* takes views of 24 x 24 pixels"):
        model(**{**inputs, "pixel_values": torch.zeros(shape)})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_model_computes_the_same(mixed, tied, dtype, tmp_path):
    make_model(make_config(tie_word_embeddings=tied)).save_pretrained(tmp_path)
    # not `model.to`, which rounds the frequencies of rotary positions too
    model = FlashSlothForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    model.save_pretrained(tmp_path / "first")
    loaded, report = FlashSlothForCausalLM.from_pretrained(tmp_path / "first", output_loading_info=True)
    assert not any(report.values())
    loaded.save_pretrained(tmp_path / "second")
    for path in set((tmp_path / "first").iterdir()) - {tmp_path / "first" / "config.json"}:
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name
    assert loaded.dtype == dtype and not loaded.training
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    assert torch.equal(logits_of(loaded, mixed), logits_of(model, mixed))


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_can_be_resized(mixed, tied, tmp_path):
    model = make_model(make_config(tie_word_embeddings=tied))
    expected, size = logits_of(model, mixed), model.config.text_config.vocab_size
    for new_size in (size + 10, size - 40):
        model.resize_token_embeddings(new_size)
        assert model.config.text_config.vocab_size == new_size
        kept = min(size, new_size)
        found = logits_of(model, mixed)
        assert found.shape[-1] == new_size
        torch.testing.assert_close(found[..., :kept], expected[..., :kept], **CLOSE)
        assert model(**mixed, labels=labels_of(mixed)).loss.isfinite()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(FlashSlothForCausalLM.from_pretrained(tmp_path), mixed), found)


def test_embeddings_and_head_can_be_exchanged(model, mixed):
    embeddings, head = copy.deepcopy(model.get_input_embeddings()), copy.deepcopy(model.get_output_embeddings())
    expected = logits_of(model, mixed)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_(), model.get_output_embeddings().weight.zero_()
    assert not torch.equal(logits_of(model, mixed), expected)
    model.set_input_embeddings(embeddings), model.set_output_embeddings(head)
    assert model.get_input_embeddings() is embeddings is model.model.get_input_embeddings()
    assert model.get_output_embeddings() is head
    assert torch.equal(logits_of(model, mixed), expected)


def test_parts_go_by_their_usual_names(model):
    assert isinstance(model.base_model, FlashSlothModel) and model.base_model is model.model
    assert model.get_decoder() is model.model.language_model
    assert model.get_encoder("image") is model.model.vision_tower
    assert model.can_generate() and not model.model.can_generate()


# Generation


def answer(model, inputs, **kwargs):
    return model.generate(**inputs, **{"max_new_tokens": NEW_TOKENS, "do_sample": False, **kwargs})


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "dynamic"},
        {"num_beams": 1, "num_return_sequences": 1},
        {"do_sample": True, "top_k": 1},
        {"logits_to_keep": 1},
        {"output_scores": True, "return_dict_in_generate": True},
    ],
    ids=str,
)
def test_every_way_gives_the_greedy_answer(model, inputs, options):
    found = answer(model, inputs, **options)
    assert torch.equal(getattr(found, "sequences", found), answer(model, inputs))


@pytest.mark.parametrize("options", [{}, {"use_cache": False}], ids=str)
def test_what_generate_returns(inputs, options):
    model = make_model()
    model.set_attn_implementation("eager")
    names = ("output_scores", "output_logits", "output_hidden_states", "output_attentions", "return_dict_in_generate")
    output = answer(model, inputs, **dict.fromkeys(names, True), min_new_tokens=NEW_TOKENS, **options)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], inputs["input_ids"])
    for steps in (output.scores, output.logits, output.attentions, output.hidden_states):
        assert len(steps) == NEW_TOKENS
    first = logits_of(model, inputs)[:, -1]
    torch.testing.assert_close(output.logits[0], first, atol=1e-4, rtol=1e-4)
    placeholders = model.config.placeholder_token_ids
    assert (output.scores[0][:, placeholders] == -torch.inf).all() and output.logits[0].isfinite().all()
    assert output.hidden_states[0][-1].shape[:2] == (len(first), length)
    scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    expected = torch.stack(output.scores, dim=1).log_softmax(dim=-1)
    new_tokens = output.sequences[:, length:]
    torch.testing.assert_close(scores, expected.gather(-1, new_tokens.unsqueeze(-1)).squeeze(-1))


@pytest.mark.parametrize("options", [{"do_sample": True}, {"do_sample": True, "num_beams": 2}], ids=str)
def test_returned_sequences_stand_behind_their_prompts(model, inputs, options):
    torch.manual_seed(0)
    rows = answer(model, inputs, num_return_sequences=2, **options)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(rows[:, :length], inputs["input_ids"].repeat_interleave(2, dim=0))


def test_lengths(model, inputs):
    length = inputs["input_ids"].shape[1]
    by_all = answer(model, inputs, max_new_tokens=None, max_length=length + NEW_TOKENS)
    assert torch.equal(by_all, answer(model, inputs))
    every_token = list(range(model.config.text_config.vocab_size))
    assert answer(model, inputs, eos_token_id=every_token).shape[1] == length + 1


@pytest.mark.parametrize("with_images", [False, True])
def test_an_answer_can_be_continued_from_its_cache(model, inputs, with_images):
    """With the images given again, and without: no query token is behind the cache."""
    expected = answer(model, inputs, min_new_tokens=NEW_TOKENS)
    begun = answer(model, inputs, max_new_tokens=2, min_new_tokens=2, return_dict_in_generate=True)
    mask = F.pad(inputs["attention_mask"], (0, 2), value=1)
    rest = {"input_ids": begun.sequences, "attention_mask": mask, CACHE_NAME: begun[CACHE_NAME]}
    if with_images and "pixel_values" in inputs:
        rest["pixel_values"] = inputs["pixel_values"]
    found = answer(model, rest, max_new_tokens=NEW_TOKENS - 2, min_new_tokens=NEW_TOKENS - 2)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foo": 1}, "not used by the model: .'foo'."),
        ({"hd": True}, "not used by the model: .'hd'."),
        ({"output_query_attentions": True}, "generate returns no query_attentions"),
    ],
)
def test_arguments_that_generate_cannot_honour(model, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        answer(model, inputs, **options)


# The processor


@pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
def test_kinds_of_tensors(processor, return_tensors):
    found = processor(images=make_image(), text=PROMPT, return_tensors=return_tensors, return_view_mask=True)
    kind = {"np": np.ndarray, "pt": torch.Tensor, None: list}[return_tensors]
    assert isinstance(found["input_ids"], kind)
    assert isinstance(found["pixel_values"], kind if return_tensors else np.ndarray)
    expected = processor(images=make_image(), text=PROMPT, return_tensors="pt")
    np.testing.assert_array_equal(np.asarray(found["input_ids"]), expected["input_ids"].numpy())
    np.testing.assert_array_equal(np.asarray(found["pixel_values"]), expected["pixel_values"].numpy())
    assert np.asarray(found["view_mask"]).tolist() == [[1]]


def test_unknown_kind_of_tensors(processor):
    for call in (processor, processor.image_processor):
        with pytest.raises(ValueError, match="nonsense is not a valid TensorType"):
            call(make_image(), return_tensors="nonsense")


@pytest.mark.parametrize("options", [{"hd": True, "padding": True}, {"return_attention_mask": False}], ids=str)
def test_options_by_name_and_in_their_dictionaries(processor, options):
    images, text = [make_image(0), make_image(1)], [PROMPT, PROMPT.replace("Hue", "Which colour")]
    nested = {"images_kwargs": {}, "text_kwargs": {}}
    for name, value in options.items():
        nested["images_kwargs" if name == "hd" else "text_kwargs"][name] = value
    flat, grouped = processor(images=images, text=text, **options), processor(images=images, text=text, **nested)
    assert set(flat) == set(grouped) and flat["input_ids"] == grouped["input_ids"]
    np.testing.assert_array_equal(flat["pixel_values"], grouped["pixel_values"])
    with pytest.raises(ValueError, match="passed two times"):
        processor(images=images, text=text, **options, **nested)


@pytest.mark.parametrize("place", ["images_kwargs", "text_kwargs", "flat"])
def test_options_of_one_call_do_not_stay(processor, place):
    options = {"hd": True} if place == "images_kwargs" else {"padding": "max_length", "max_length": 60}
    before = processor(images=make_image(), text=PROMPT)
    changed = processor(images=make_image(), text=PROMPT, **(options if place == "flat" else {place: options}))
    assert changed["input_ids"] != before["input_ids"]
    assert processor(images=make_image(), text=PROMPT)["input_ids"] == before["input_ids"]


def test_token_types_mark_images(processor):
    found = processor(images=make_image(), text=PROMPT, return_mm_token_type_ids=True)
    is_image = np.array(found["input_ids"]) == processor.image_token_id
    np.testing.assert_array_equal(np.array(found["mm_token_type_ids"]), is_image.astype(int))


def test_forms_of_images_are_equal(processor):
    images, text = [make_image(0), make_image(1)], [PROMPT, PROMPT]
    arrays = [np.asarray(image) for image in images]
    expected = processor(images=images, text=text)
    forms = [
        [[image] for image in images],
        tuple(images),
        [(image,) for image in images],
        arrays,
        np.stack(arrays),
        torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2),
    ]
    for form in forms:
        found = processor(images=form, text=text)
        np.testing.assert_array_equal(found["pixel_values"], expected["pixel_values"])
        assert found["input_ids"] == expected["input_ids"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{"padding": True}, {"padding": "max_length", "max_length": 60}], ids=str)
def test_padding(processor, side, options):
    text = ["Hi", "Hello there"]
    found = processor(text=text, padding_side=side, return_tensors="pt", **options)
    length = options.get("max_length", len(text[1]))
    assert found["input_ids"].shape == found["attention_mask"].shape == (2, length)
    for ids, mask, prompt in zip(found["input_ids"], found["attention_mask"], text, strict=True):
        assert processor.decode(ids[mask.bool()]) == prompt
        assert (ids[~mask.bool()] == processor.tokenizer.pad_token_id).all()
        assert mask[0 if side == "right" else -1] == 1


@pytest.mark.parametrize("name", ["text_pair", "is_split_into_words", "return_overflowing_tokens"])
def test_options_of_tokenizers_that_prompts_do_not_have(processor, name):
    for options in ({name: "more"}, {"text_kwargs": {name: True}}):
        with pytest.raises(ValueError, match=f"{name} has no meaning for prompts"):
            processor(text="Hi", **options)


def test_options_of_the_chat_template(processor):
    def render(chat, **options):
        return processor.apply_chat_template(chat, **options)

    plain = render(CHAT)
    assert render(CHAT, add_generation_prompt=True) == f"{plain} ASSISTANT:"
    assert f"{render(CHAT[:2], continue_final_message=True)}</s>" == render(CHAT[:2])
    with pytest.raises(ValueError, match="not compatible"):
        render(CHAT, continue_final_message=True, add_generation_prompt=True)
    own = "{{ greeting }} {{ messages[0]['content'][0]['text'] }}"
    assert render([user("you")], chat_template=own, greeting="Hi") == "Hi you"
    ids = render([user("Hi")], tokenize=True, return_dict=False)
    assert ids == render([user("Hi")], tokenize=True, return_dict=True)["input_ids"]
    assert render([CHAT, [user("Hi")]]) == [plain, render([user("Hi")])]


@pytest.mark.parametrize("hd", [False, True])
def test_one_option_in_two_places(processor, hd):
    options = {"tokenize": True, "return_dict": True, "hd": hd}
    expected = processor.apply_chat_template(CHAT, **options)["input_ids"]
    assert processor.apply_chat_template(CHAT, **options, processor_kwargs={"hd": hd})["input_ids"] == expected
    with pytest.raises(ValueError, match="contradict each other"):
        processor.apply_chat_template(CHAT, **options, processor_kwargs={"hd": not hd})


def test_saved_and_loaded_processor_is_the_same(tmp_path):
    image_processor = FlashSlothImageProcessor(size={"height": 24, "width": 24}, hd=True, tile_grid=3)
    own = FlashSlothProcessor(image_processor, make_tokenizer(), 4, 3, chat_template="{{ messages[0]['role'] }}")
    own.save_pretrained(tmp_path / "first")
    loaded = FlashSlothProcessor.from_pretrained(tmp_path / "first")
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "first"), FlashSlothProcessor)
    loaded.save_pretrained(tmp_path / "second")
    for path in (tmp_path / "first").iterdir():
        again = tmp_path / "second" / path.name
        if path.name == "tokenizer_config.json":  # transformers adds where a tokenizer was loaded from
            assert json.loads(path.read_text()).items() <= json.loads(again.read_text()).items()
        else:
            assert path.read_bytes() == again.read_bytes(), path.name
    assert loaded.chat_template == own.chat_template and loaded.model_input_names == own.model_input_names
    changed = FlashSlothProcessor.from_pretrained(tmp_path / "first", hd=False, padding_side="right")
    assert not changed.image_processor.hd and changed.tokenizer.padding_side == "right"
    assert changed.image_processor.tile_grid == 3


def test_image_processor_takes_a_batch_as_it_takes_each_image(processor):
    images = [make_image(0), make_image(1, 50, 20), make_image(2, 24, 24)]
    for hd in (False, True):
        single = np.concatenate([processor.image_processor(image, hd=hd)["pixel_values"] for image in images])
        for batch in (images, [images], [images[:1], images[1:]], [[image] for image in images]):
            found = processor.image_processor(batch, hd=hd)["pixel_values"]
            np.testing.assert_array_equal(found, single)
