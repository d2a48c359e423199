# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Generation options: names of the library, and nothing that would be without effect."""

import numpy as np
import pytest
from model_folders import error_of

import flashsloth
from flashsloth import FlashSlothConfig
from flashsloth.assistant.options import chat_options, generation_options, streaming_options
from flashsloth.loading import SHIPPED_CHECKPOINT


SCENE = SHIPPED_CHECKPOINT.parent.parent / "examples" / "scene.png"
CONFIG = FlashSlothConfig.from_pretrained(SHIPPED_CHECKPOINT)
LAST = CONFIG.text_config.vocab_size - 1


def test_decoding_is_greedy_unless_told_otherwise():
    assert generation_options({}, CONFIG) == {"max_new_tokens": 256, "do_sample": False}
    options = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 3}
    assert generation_options(options, CONFIG) == options
    assert generation_options({"num_beams": 2}, CONFIG)["num_beams"] == 2


BAD_OPTIONS = [
    ({"max_tokens": 3}, "max_tokens is no option of generate. Did you mean max_new_tokens?"),
    ({"zzz": 3}, "zzz is no option of generate."),
    ({"_from_model_config": True}, "_from_model_config is no option"),
    ({"temperature": 0.7}, "temperature=0.7 has no effect without do_sample=True"),
    ({"top_p": 0.7, "do_sample": False}, "top_p=0.7 has no effect"),
    ({"seed": 1}, "seed is no option of generate: call transformers.set_seed before"),
    ({"temperature": 1e-40, "do_sample": True}, "temperature=1e-40 is below 1e-30: leave out do_sample"),
    ({"repetition_penalty": 1e-300}, "repetition_penalty is 1e-300: pass a number of 1e-30 or more"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ({"max_new_tokens": True}, "max_new_tokens is True"),
    ({"max_new_tokens": None}, "max_new_tokens is None"),
    ({"max_length": 80}, "max_length has no effect beside max_new_tokens"),
    ({"num_return_sequences": 2}, "num_return_sequences does not go with one answer"),
    ({"return_dict_in_generate": True}, "call model.model.generate"),
    ({"decoder_start_token_id": 3}, "decoder_start_token_id has no effect on this model: leave it out"),
    ({"penalty_alpha": 0.6}, "penalty_alpha is of a way to decode that transformers has no more: leave it out"),
    ({"top_h": 0.5}, "top_h=0.5 has no effect without do_sample=True"),
]


@pytest.mark.parametrize("options, message", BAD_OPTIONS)
def test_options_that_are_refused(options, message):
    assert message in error_of(generation_options, options, CONFIG)
    assert message in error_of(streaming_options, options, CONFIG)


def test_beams_cannot_be_streamed():
    assert "num_beams=3 cannot be streamed" in error_of(streaming_options, {"num_beams": 3}, CONFIG)
    assert streaming_options({"num_beams": 1}, CONFIG)["num_beams"] == 1


def test_what_a_whole_chat_has_is_no_option_of_a_turn():
    assert "hd is one of the whole chat: begin it by model.chat(hd=...)" in error_of(
        chat_options, {"hd": True}, CONFIG
    )
    assert "begin it by model.chat(system=...)" in error_of(chat_options, {"system": None}, CONFIG)


def test_a_chat_keeps_one_cache():
    for options in ({"num_beams": 2}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert f"{next(iter(options))} does not go with a chat" in error_of(chat_options, options, CONFIG)
    assert chat_options({"num_beams": 1, "use_cache": True}, CONFIG)["max_new_tokens"] == 256


WRONG_NUMBERS = (-1.0, 0.0, float("nan"), float("inf"), 10**400, True, "1", [1])
WRONG_TOKENS = (-1, LAST + 1, 1.0, True, "a")
BAD_VALUES = [
    *(("temperature", value, "a number above 0") for value in WRONG_NUMBERS),
    *(("repetition_penalty", value, "a number above 0") for value in WRONG_NUMBERS),
    *(
        (name, value, "a number from 0 to 1")
        for name in ("top_p", "min_p", "typical_p")
        for value in (-0.1, 1.1, float("nan"), "0.5")
    ),
    *(("top_k", value, "a whole number of 0 or more") for value in (-1, 0.5, float("inf"), "5")),
    *(("max_new_tokens", value, "a whole number of 1 or more") for value in (0, -1, 1.5, True, None, "5", [3])),
    *(("min_new_tokens", value, "a whole number of 0 or more") for value in (-1, 0.5, "5")),
    *(("num_beams", value, "a whole number of 1 or more") for value in (0, 1.5, "2")),
    *(("do_sample", value, "True or False") for value in (None, 1, "yes")),
    *(("early_stopping", value, "one of False, True, 'never'") for value in (1, "always")),
    *(("pad_token_id", value, f"the id of a token, from 0 to {LAST}") for value in (*WRONG_TOKENS, [1])),
    *(("eos_token_id", value, "the id of a token, or a list of ids") for value in (*WRONG_TOKENS, [], [LAST + 1])),
    *(("suppress_tokens", value, "a list of ids of tokens") for value in (*WRONG_TOKENS, 3, [-1], [LAST + 1], ["a"])),
    *(("stop_strings", value, "a text that is not empty") for value in ("", [""], 5, [3], ["a", None])),
    *(("guidance_scale", value, "a number") for value in (float("nan"), "2", True)),
    *(("prompt_lookup_num_tokens", value, "a whole number of 1 or more") for value in (0, "2")),
    *(("logits_processor", value, "a list of functions") for value in ("x", 5, [5])),
    *(("stopping_criteria", value, "a list of functions") for value in (5, ["x"])),
    ("prefix_allowed_tokens_fn", 5, "a function"),
]


@pytest.mark.parametrize("name, value, expected", BAD_VALUES)
def test_a_value_that_an_option_cannot_have_is_named(name, value, expected):
    options = {"do_sample": True, name: value}
    message = error_of(generation_options, options, CONFIG)
    assert message.startswith(f"{name} is {repr(value)[:80]}: pass {expected}")


# As they are given, and as transformers takes them.
GOOD_VALUES = {
    "temperature": (2, 2.0),
    "repetition_penalty": (np.int64(2), 2.0),
    "top_p": (np.float32(0.5), 0.5),
    "top_k": (np.int64(3), 3),
    "max_new_tokens": (np.int64(4), 4),
    "length_penalty": (-1.5, -1.5),
    "early_stopping": ("never", "never"),
    "eos_token_id": ([0, np.int64(LAST)], [0, LAST]),
    "pad_token_id": (np.int64(5), 5),
    "suppress_tokens": ([], []),
    "stop_strings": (("a", "b"), ("a", "b")),
    "max_time": (2.5, 2.5),
    "num_beams": (None, None),
    "logits_processor": ([print], [print]),
}


@pytest.mark.parametrize("name", GOOD_VALUES)
def test_other_values_are_passed_on(name):
    value, expected = GOOD_VALUES[name]
    found = generation_options({"do_sample": True, name: value}, CONFIG)[name]
    assert found == expected and type(found) is type(expected)


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def assistant(request):
    if request.param == "torch":
        return flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32", device="cpu")
    return flashsloth.load(request.getfixturevalue("exported"), backend="onnxruntime", dtype="float32")


def test_values_are_checked_before_anything_is_computed(assistant):
    chat = assistant.chat()
    for ask, question in (
        (assistant.ask, (None, "What?")),
        (assistant.stream, (None, "What?")),
        (chat.ask, ("What?",)),
        (chat.stream, ("What?",)),
    ):
        message = error_of(ask, *question, suppress_tokens=[LAST + 1])
        assert f"suppress_tokens is [{LAST + 1}]: pass a list of ids of tokens, from 0 to {LAST}" in message


@pytest.mark.parametrize("name, value, expected", BAD_VALUES)
def test_both_backends_refuse_the_same_values_in_the_same_words(assistant, name, value, expected):
    message = error_of(assistant.ask, None, "What?", **{"do_sample": True, name: value})
    assert message.startswith(f"{name} is {repr(value)[:80]}: pass {expected}")


def test_both_backends_take_numbers_of_all_kinds(assistant):
    """Those of numpy, and whole ones for fractions, of which transformers refuses some."""
    options = {"temperature": 2, "top_p": np.float32(0.9), "top_k": np.int64(3), "repetition_penalty": np.float64(2)}
    lengths = {"min_new_tokens": np.int64(2), "max_new_tokens": np.int64(3)}
    answer = assistant.ask(SCENE, "What colour is the square?", do_sample=True, **options, **lengths)
    assert 2 <= answer.num_tokens <= 3


def test_padding_of_a_caller_is_no_part_of_an_answer(assistant):
    """Though another answer has that word: the first row is padded with it while the second goes on."""
    questions, images = ["What colour is the square?", "What colour is the star?"], [SCENE, SCENE]
    expected = assistant.ask(images, questions, stop_strings=["square"])
    assert list(map(str, expected)) == ["The square", "The star is purple."]
    padding = assistant.processor.tokenizer.encode(" star", add_special_tokens=False)[0]
    answers = assistant.ask(images, questions, stop_strings=["square"], pad_token_id=padding)
    assert [(str(one), one.num_tokens) for one in answers] == [(str(one), one.num_tokens) for one in expected]


def test_no_stop_strings_are_none(assistant):
    assert str(assistant.ask(SCENE, "What colour is the square?", stop_strings=[])) == "The square is red."
