# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Values of settings of generation: what a file or a call may hold, and what is said of others."""

import pytest
from transformers import GenerationConfig

from flashsloth.folders.generation_settings import KNOWN, as_python, expectation


def test_all_names_are_settings_of_transformers():
    assert set(vars(GenerationConfig())) >= KNOWN


def test_defaults_of_transformers_are_right():
    tokens = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 1}
    defaults = {**GenerationConfig()._get_default_generation_params(), **tokens}
    set_ones = {name: value for name, value in defaults.items() if value is not None and name in KNOWN}
    assert len(set_ones) > 10
    assert {name: expected for name, value in set_ones.items() if (expected := expectation(name, value, 2))} == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("eos_token_id", 2, "the id of a token, or a list of ids of tokens, from 0 to 1"),
        ("pad_token_id", [0], "the id of a token, from 0 to 1"),
        ("begin_suppress_tokens", 0, "a list of ids of tokens, from 0 to 1"),
        ("early_stopping", 1, "one of False, True, 'never'"),
        ("num_beams", True, "a whole number of 1 or more"),
        ("max_time", float("inf"), "a number above 0"),
        ("temperature", 10**400, "a number above 0"),
    ],
)
def test_what_a_wrong_value_must_be(name, value, expected):
    assert expectation(name, value, 2) == expected


def test_a_setting_that_is_not_known_is_left_to_transformers():
    assert expectation("sequence_bias", "x", 2) is None
    assert as_python("sequence_bias", "x") == "x"
