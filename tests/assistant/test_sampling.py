# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Tokens are chosen as transformers chooses them, with numpy alone."""

import json

import numpy as np
import pytest
import torch
from model_folders import error_of
from samples import make_config
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    set_seed,
)

from flashsloth.assistant.sampling import Decoding, decoding, read_generation_config


END = 3
PROMPT = [5, 6, 5, 9]
OPTIONS = {"max_new_tokens": 8, "do_sample": False}
SETTINGS = {"eos_token_id": [END], "pad_token_id": 0}

# What is given: an option, its value, and what the message says.
BAD_INPUT = {
    "beams": ("num_beams", 3, "num_beams=3, which the backend onnxruntime does not have: leave it out"),
    "a logits processor": ("logits_processor", [print], "does not have: leave it out, or use the backend torch"),
}


def logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 12), scale=3).astype(np.float32)


def chosen_by_transformers(scores: np.ndarray, *processors) -> np.ndarray:
    processed = LogitsProcessorList(processors)(torch.tensor([PROMPT]), torch.tensor(scores))
    return processed.softmax(-1)[0].numpy()


def test_greedy_tokens_are_those_of_transformers():
    how = Decoding([END], 0, 8, min_new_tokens=2, suppress_tokens=[1, 2], repetition_penalty=1.7)
    for seed in range(50):
        scores = logits(seed)
        expected = chosen_by_transformers(
            scores,
            RepetitionPenaltyLogitsProcessor(1.7),
            MinNewTokensLengthLogitsProcessor(len(PROMPT), 2, END, device="cpu"),
            SuppressTokensLogitsProcessor([1, 2]),
        )
        assert how.choose(scores, [np.array(PROMPT)], 0) == [expected.argmax()]


@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.01])
@pytest.mark.parametrize("top_k", [0, 3, 50])
def test_samples_have_the_odds_of_transformers(top_p, top_k):
    how = Decoding([END], 0, 8, do_sample=True, temperature=0.7, top_k=top_k, top_p=top_p, min_p=0.02)
    for seed in range(10):
        scores = logits(seed)
        processors = [TemperatureLogitsWarper(0.7)]
        processors += [TopKLogitsWarper(top_k)] if top_k else []
        processors += [TopPLogitsWarper(top_p)] if top_p < 1 else []
        expected = chosen_by_transformers(scores, *processors, MinPLogitsWarper(0.02))
        np.testing.assert_allclose(how._probabilities(scores[0]), expected, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-37, 5e-324])
def test_the_smallest_temperatures_take_the_likeliest_token(temperature):
    how = Decoding([END], 0, 8, do_sample=True, temperature=temperature, suppress_tokens=[1])
    for seed in range(10):
        scores = logits(seed) * 1000
        assert how.choose(scores, [np.array(PROMPT)], 0) == [np.where(np.arange(12) == 1, -np.inf, scores[0]).argmax()]


def test_a_seed_repeats_samples():
    how = Decoding([END], 0, 8, do_sample=True, temperature=2.0)
    draws = []
    for _ in range(2):
        set_seed(3)
        draws.append([how.choose(logits(), [np.array(PROMPT)], 0)[0] for _ in range(20)])
    assert draws[0] == draws[1] and len(set(draws[0])) > 1


@pytest.mark.parametrize(("name", "value", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_options_are_named(name, value, message):
    options = {**OPTIONS, "do_sample": True, name: value}
    assert message in error_of(decoding, options, SETTINGS)


def test_options_go_before_the_folder_and_neutral_ones_change_nothing(tmp_path):
    config = make_config()
    settings = {"eos_token_id": 257, "suppress_tokens": [7], "repetition_penalty": 1.2, "num_beams": 1, "top_k": 5}
    (tmp_path / "generation_config.json").write_text(json.dumps({**settings, "max_new_tokens": 99}), encoding="utf-8")
    how = decoding(
        {**OPTIONS, "repetition_penalty": 1.5, "stop_strings": "."}, read_generation_config(tmp_path, config)
    )
    assert (how.max_new_tokens, how.repetition_penalty, how.top_k) == (8, 1.5, 5)
    assert (how.eos_token_id, how.stop_strings) == ([257], ["."])
    assert {7, *config.placeholder_token_ids} == set(how.suppress_tokens)


def test_a_folder_whose_settings_need_torch_is_refused(tmp_path):
    settings = {"eos_token_id": 257, "num_beams": 4}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert "generation_config.json sets num_beams=4" in error_of(read_generation_config, tmp_path, make_config())
