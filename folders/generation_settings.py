# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Values that settings of transformers' `generate` may have, in a generation config and in a call. With many others
transformers fails in the middle of an answer, or answers wrongly.
"""

import math
import sys
from collections.abc import Callable
from numbers import Integral, Real


SMALLEST = {  # of whole numbers
    "encoder_no_repeat_ngram_size": 0,
    "max_length": 1,
    "max_matching_ngram_size": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "prefill_chunk_size": 1,
    "prompt_lookup_num_tokens": 1,
    "top_k": 0,
}
NUMBERS = ("guidance_scale", "length_penalty")
POSITIVE = ("encoder_repetition_penalty", "max_time", "repetition_penalty", "temperature")
PROBABILITIES = ("epsilon_cutoff", "eta_cutoff", "min_p", "top_h", "top_p", "typical_p")
FRACTIONS = (*NUMBERS, *POSITIVE, *PROBABILITIES)
SWITCHES = (
    "do_sample",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "remove_invalid_values",
    "renormalize_logits",
    "return_dict_in_generate",
    "use_cache",
)
CHOICES = {
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static"),
    "early_stopping": (False, True, "never"),
}
ONE_TOKEN = ("bos_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "pad_token_id")
# Of the ends of an answer there is one, or a list of them.
TOKENS = ("begin_suppress_tokens", "eos_token_id", "forced_eos_token_id", "suppress_tokens")


def is_whole(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_finite(value) -> bool:
    """Whether a value is a number that a float can hold."""
    if is_whole(value):
        return abs(int(value)) <= sys.float_info.max
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_one_of(value, choices: tuple) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in choices)  # 1 is not True


def _are_strings(value) -> bool:
    strings = [value] if isinstance(value, str) else value
    return isinstance(strings, list | tuple) and all(isinstance(one, str) and one for one in strings)


# By name: what a value must be, and whether it is.
RULES: dict[str, tuple[str, Callable[[object], bool]]] = {
    **{
        name: (f"a whole number of {least} or more", lambda value, least=least: is_whole(value) and value >= least)
        for name, least in SMALLEST.items()
    },
    **dict.fromkeys(POSITIVE, ("a number above 0", lambda value: is_finite(value) and value > 0)),
    **dict.fromkeys(PROBABILITIES, ("a number from 0 to 1", lambda value: is_finite(value) and 0 <= value <= 1)),
    **dict.fromkeys(SWITCHES, ("True or False", lambda value: isinstance(value, bool))),
    **{
        name: (f"one of {', '.join(map(repr, choices))}", lambda value, choices=choices: _is_one_of(value, choices))
        for name, choices in CHOICES.items()
    },
    **dict.fromkeys(NUMBERS, ("a number", is_finite)),
    "stop_strings": ("a text that is not empty, or a list of them", _are_strings),
}
KNOWN = {*RULES, *ONE_TOKEN, *TOKENS}
# Of them, what is no setting of a model: it goes with one call, or with a model of another kind.
OF_A_CALL = (
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "max_matching_ngram_size",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "stop_strings",
    "top_h",
)


def expectation(name: str, value, vocab_size: int) -> str | None:
    """
    What a setting must be and is not.

    Args:
        name (`str`): Of the setting.
        value: Its value, which is not `None`.
        vocab_size (`int`): Tokens of the model.

    Returns:
        `str`, *optional*: What it must be; `None` if nothing is wrong with it, or it is not known here.
    """
    if name in RULES:
        expected, is_right = RULES[name]
        return None if is_right(value) else expected
    if name not in KNOWN:
        return None

    def is_token(one) -> bool:
        return is_whole(one) and 0 <= one < vocab_size

    ids = f"from 0 to {vocab_size - 1}"
    is_list = name in TOKENS and isinstance(value, list | tuple) and all(map(is_token, value))
    if is_list and (value or name not in ONE_TOKEN) or name in ONE_TOKEN and is_token(value):
        return None
    if name not in TOKENS:
        return f"the id of a token, {ids}"
    return f"{'the id of a token, or ' * (name in ONE_TOKEN)}a list of ids of tokens, {ids}"


def as_python(name: str, value):
    """
    A value that [`expectation`] finds nothing wrong with, as `generate` takes it: a float where it takes no whole
    number, and no number of numpy's.
    """
    if name in FRACTIONS:
        return float(value)
    if name in SMALLEST or name in ONE_TOKEN and is_whole(value):
        return int(value)
    return list(map(int, value)) if name in TOKENS else value
