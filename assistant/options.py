# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The options of an answer: those of transformers' `generate`, by their names."""

import difflib
from collections.abc import Sequence

from transformers import GenerationConfig

from flashsloth.folders.generation_settings import as_python, expectation


DEFAULTS = {"max_new_tokens": 256, "do_sample": False}
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
# Objects of `generate` that change one call.
FUNCTIONS = ("logits_processor", "stopping_criteria")  # lists of them
FUNCTION = "prefix_allowed_tokens_fn"
OBJECTS = (*FUNCTIONS, FUNCTION)
# What changes the shape of what `generate` returns, or is for those who read that.
ONE_ANSWER = (
    "num_return_sequences",
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)
# What `max_new_tokens` and a prompt's own length decide.
WITHOUT_EFFECT = ("max_length", "min_length")
# What nothing reads: of models of another kind, and notes of transformers.
UNREAD = ("decoder_start_token_id", "is_assistant", "low_memory", "transformers_version")
# Of ways to decode that transformers has no code for any more.
GONE = ("constraints", "diversity_penalty", "dola_layers", "force_words_ids", "num_beam_groups", "penalty_alpha")
# What a whole chat has.
OF_A_CHAT = ("system", "hd")
MAX_SHOWN = 80  # characters of a value in an error
LEAST_DIVISOR = 1e-30  # by less, scores of float32 become infinite, and no token has a probability
PENALTIES = ("encoder_repetition_penalty", "repetition_penalty")
# What does not go with a cache that is kept between turns.
NOT_IN_CHATS = ("num_beams", "use_cache", "cache_implementation", "cache_config")


def generation_options(options: dict, config) -> dict:
    """
    The options of a generation, with the defaults.

    Args:
        options (`dict`): Of the caller.
        config ([`FlashSlothConfig`]): The model's.

    Raises:
        ValueError: If one is unknown, has no effect, has a value that it cannot have, or asks for more than one
            answer.
    """
    known = {*vars(GenerationConfig()), *OBJECTS}
    for name in options:
        if name in ONE_ANSWER:
            raise ValueError(f"{name} does not go with one answer of text: call model.model.generate for it.")
        if name in WITHOUT_EFFECT:
            raise ValueError(f"{name} has no effect beside max_new_tokens: use max_new_tokens or min_new_tokens.")
        if name in UNREAD:
            raise ValueError(f"{name} has no effect on this model: leave it out.")
        if name in GONE:
            raise ValueError(f"{name} is of a way to decode that transformers has no more: leave it out.")
        if name == "seed":
            raise ValueError("seed is no option of generate: call transformers.set_seed before.")
        if name not in known or name.startswith("_"):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{name} is no option of generate.{hint}")
    options = {**DEFAULTS, **options}
    if type(options.get("stop_strings")) in (list, tuple) and not options["stop_strings"]:  # which `generate` refuses
        del options["stop_strings"]
    for name, value in options.items():
        if value is not None or name in DEFAULTS:
            expected = _expected_object(name, value) or expectation(name, value, config.text_config.vocab_size)
            if expected:
                raise ValueError(f"{name} is {repr(value)[:MAX_SHOWN]}: pass {expected}.")
            options[name] = as_python(name, value)
    sampling = [name for name in SAMPLING if options.get(name) is not None]
    if sampling and not options["do_sample"]:
        raise ValueError(f"{sampling[0]}={options[sampling[0]]} has no effect without do_sample=True: add it.")
    if 0 < (options.get("temperature") or 0) < LEAST_DIVISOR:
        raise ValueError(
            f"temperature={options['temperature']} is below {LEAST_DIVISOR}: leave out do_sample and temperature, "
            "which takes the likeliest token."
        )
    for name in PENALTIES:
        if 0 < (options.get(name) or 0) < LEAST_DIVISOR:
            raise ValueError(f"{name} is {options[name]}: pass a number of {LEAST_DIVISOR} or more.")
    return options


def _expected_object(name: str, value) -> str | None:
    """What an object of `generate` must be and is not."""
    if name == FUNCTION:
        return None if callable(value) else "a function"
    if name in FUNCTIONS and not (isinstance(value, list | tuple) and all(map(callable, value))):
        return "a list of functions, such as those of transformers"
    return None


def answer_lengths(prompt_lengths: Sequence[int], max_new_tokens: int, config) -> list[int]:
    """
    The longest answer of each row of a batch: beyond its last position a decoder only babbles.

    Args:
        prompt_lengths (`Sequence[int]`): Tokens of each prompt, without padding.
        max_new_tokens (`int`): Of the options.
        config ([`FlashSlothConfig`]): The model's.

    Raises:
        ValueError: If a prompt leaves no room for an answer.
    """
    limit = config.text_config.max_position_embeddings
    for row, length in enumerate(prompt_lengths):
        if length >= limit:
            name = "The prompt" if len(prompt_lengths) == 1 else f"Prompt {row}"
            raise ValueError(
                f"{name} has {length} tokens, which leaves no room for an answer: the decoder has {limit} positions. "
                "Shorten the text, or use fewer images or hd=False."
            )
    return [min(max_new_tokens, limit - length) for length in prompt_lengths]


def end_token_ids(options: dict, config) -> list[int]:
    """The tokens that end an answer: those of [`generation_options`], or of the model."""
    given = options.get("eos_token_id")
    if given is None:
        return config.eos_token_ids
    return list(given) if isinstance(given, list | tuple) else [given]


def streaming_options(options: dict, config) -> dict:
    """
    The options of a generation that is streamed.

    Raises:
        ValueError: As [`generation_options`], and with beams, which change words that were already read.
    """
    options = generation_options(options, config)
    if (options.get("num_beams") or 1) > 1:
        raise ValueError(f"num_beams={options['num_beams']} cannot be streamed: call ask, or leave it out.")
    return options


def chat_options(options: dict, config) -> dict:
    """
    The options of a turn of a chat.

    Raises:
        ValueError: As [`generation_options`], and for what does not go with a cache that is kept.
    """
    for name in OF_A_CHAT:
        if name in options:
            raise ValueError(f"{name} is one of the whole chat: begin it by model.chat({name}=...).")
    options = generation_options(options, config)
    for name in NOT_IN_CHATS:
        if options.get(name) not in (None, 1, True):
            raise ValueError(f"{name} does not go with a chat, which keeps one cache: call ask of the model for it.")
    return options
