# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Generation options: names of the library, and nothing that would be without effect."""

import pytest
from model_folders import error_of

from flashsloth.assistant.options import chat_options, generation_options, streaming_options


def test_decoding_is_greedy_unless_told_otherwise():
    assert generation_options({}) == {"max_new_tokens": 256, "do_sample": False}
    options = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 3}
    assert generation_options(options) == options
    assert generation_options({"num_beams": 2})["num_beams"] == 2


BAD_OPTIONS = [
    ({"max_tokens": 3}, "max_tokens is no option of generate. Did you mean max_new_tokens?"),
    ({"zzz": 3}, "zzz is no option of generate."),
    ({"_from_model_config": True}, "_from_model_config is no option"),
    ({"temperature": 0.7}, "temperature=0.7 has no effect without do_sample=True"),
    ({"top_p": 0.7, "do_sample": False}, "top_p=0.7 has no effect"),
    ({"seed": 1}, "seed is no option of generate: call transformers.set_seed before"),
    ({"temperature": 1e-40, "do_sample": True}, "temperature=1e-40 is below 1e-30: leave out do_sample"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ({"max_new_tokens": True}, "max_new_tokens is True"),
    ({"max_new_tokens": None}, "max_new_tokens is None"),
    ({"max_length": 80}, "max_length has no effect beside max_new_tokens"),
    ({"num_return_sequences": 2}, "num_return_sequences does not go with one answer"),
    ({"return_dict_in_generate": True}, "call model.model.generate"),
]


@pytest.mark.parametrize("options, message", BAD_OPTIONS)
def test_options_that_are_refused(options, message):
    assert message in error_of(generation_options, options)
    assert message in error_of(streaming_options, options)


def test_beams_cannot_be_streamed():
    assert "num_beams=3 cannot be streamed" in error_of(streaming_options, {"num_beams": 3})
    assert streaming_options({"num_beams": 1})["num_beams"] == 1


def test_what_a_whole_chat_has_is_no_option_of_a_turn():
    assert "hd is one of the whole chat: begin it by model.chat(hd=...)" in error_of(chat_options, {"hd": True})
    assert "begin it by model.chat(system=...)" in error_of(chat_options, {"system": None})


def test_a_chat_keeps_one_cache():
    for options in ({"num_beams": 2}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert f"{next(iter(options))} does not go with a chat" in error_of(chat_options, options)
    assert chat_options({"num_beams": 1, "use_cache": True})["max_new_tokens"] == 256
