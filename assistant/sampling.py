# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The next token, from logits, with numpy alone: what transformers' `generate` does with the options below, in its order.
Other options need torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from transformers.utils import GENERATION_CONFIG_NAME

from flashsloth.assistant.options import MAX_SHOWN
from flashsloth.folders.fit import check_generation_config
from flashsloth.folders.json_files import read_settings


# Options of `generate`, and the values with which they change nothing. They may stand in a generation config.
NEUTRAL = {
    "bos_token_id": None,
    "early_stopping": False,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "length_penalty": 1.0,
    "max_length": None,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_logits": False,
    "output_scores": False,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "return_dict_in_generate": False,
    "typical_p": 1.0,
    "use_cache": True,
}
ANY_VALUE = ("bos_token_id", "max_length")  # of them that do not change an answer, whatever they are
NOTES = ("transformers_version", "_from_model_config")  # of a generation config, which are no options
DEFAULT_TOP_K = 50  # of transformers, when it samples


@dataclass(frozen=True)
class Decoding:
    """
    How tokens are chosen, and when an answer ends.

    Args:
        eos_token_id (`list[int]`): Tokens that end an answer.
        pad_token_id (`int`): Stands behind the end of a shorter row.
        max_new_tokens (`int`), min_new_tokens (`int`): Bounds on the length of an answer.
        suppress_tokens (`list[int]`): Are never chosen.
        stop_strings (`list[str]`): End an answer.
        repetition_penalty (`float`): Divides the odds of tokens that are there already.
        do_sample (`bool`): Whether to draw tokens, by the options below.
        temperature (`float`), top_k (`int`), top_p (`float`), min_p (`float`): As in transformers' `generate`.
    """

    eos_token_id: list[int]
    pad_token_id: int
    max_new_tokens: int
    min_new_tokens: int = 0
    suppress_tokens: Sequence[int] = ()
    stop_strings: Sequence[str] = ()
    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = DEFAULT_TOP_K
    top_p: float = 1.0
    min_p: float = 0.0

    def choose(self, logits: np.ndarray, sequences: list[np.ndarray], length: int) -> list[int]:
        """
        The next token of each row.

        Args:
            logits (`np.ndarray` of shape `(B, vocabulary)`): Of the last position.
            sequences (`list[np.ndarray]`): The tokens of each row, prompt and answer.
            length (`int`): Tokens of the answers so far.
        """
        return [self._choose(self.scores(*row, length)) for row in zip(logits, sequences, strict=True)]

    def scores(self, logits: np.ndarray, ids: np.ndarray, length: int) -> np.ndarray:
        """
        The scores of the tokens that may come next, without those of sampling.

        Args:
            logits (`np.ndarray` of shape `(vocabulary,)`): Of the last position of a row.
            ids (`np.ndarray`): The tokens of the row, prompt and answer.
            length (`int`): Tokens of the answer so far.
        """
        scores = logits.astype(np.float32)
        if self.repetition_penalty != 1:
            seen = scores[ids]
            scores[ids] = np.where(seen < 0, seen * self.repetition_penalty, seen / self.repetition_penalty)
        if length < self.min_new_tokens:
            scores[self.eos_token_id] = -np.inf
        scores[list(self.suppress_tokens)] = -np.inf
        return scores

    def _choose(self, scores: np.ndarray) -> int:
        if not self.do_sample:
            return int(scores.argmax())
        # numpy's own generator, which transformers.set_seed seeds as well as torch's
        return int(np.random.choice(len(scores), p=self._probabilities(scores)))

    def _probabilities(self, scores: np.ndarray) -> np.ndarray:
        scores = divided(scores, self.temperature)
        if 0 < self.top_k < len(scores):
            scores[scores < np.partition(scores, -self.top_k)[-self.top_k]] = -np.inf
        if self.top_p < 1:
            scores = nucleus(scores, self.top_p)
        if self.min_p > 0:
            probabilities = _softmax(scores)
            scores[probabilities < self.min_p * probabilities.max()] = -np.inf
        return _softmax(scores)


def divided(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Scores `(vocabulary,)` by a temperature above 0, of which the largest is 0."""
    scores = scores.astype(np.float64)
    with np.errstate(over="ignore"):  # by a tiny temperature all others become minus infinity
        return (scores - scores.max()) / temperature


def nucleus(scores: np.ndarray, top_p: float) -> np.ndarray:
    """Scores `(vocabulary,)` of the likeliest tokens that have the probability `top_p` together; -inf for the rest."""
    order = scores.argsort(kind="stable")
    is_rest = _softmax(scores)[order].cumsum() <= 1 - top_p
    is_rest[-1] = False
    kept = scores.copy()
    kept[order[is_rest]] = -np.inf
    return kept


def _softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


def read_generation_config(folder: Path, config) -> dict:
    """
    The settings of a folder's generation config that are not neutral, or those that follow from the config.

    Args:
        folder (`Path`): A model folder.
        config ([`FlashSlothConfig`]): The model's.

    Raises:
        ValueError: If the generation config does not fit the model, or a setting needs torch.
    """
    check_generation_config(folder, config)
    file = folder / GENERATION_CONFIG_NAME
    settings = {"eos_token_id": config.eos_token_ids, "pad_token_id": config.pad_token_id}
    if file.is_file():
        settings |= {
            name: value for name, value in read_settings(file).items() if value is not None and name not in NOTES
        }
    if "suppress_tokens" in settings:
        settings["suppress_tokens"] = sorted({*settings["suppress_tokens"], *config.placeholder_token_ids})
    return _supported(settings, f"{file} sets")


def decoding(options: dict, settings: dict) -> Decoding:
    """
    How an answer is decoded.

    Args:
        options (`dict`): Of the caller, by [`generation_options`].
        settings (`dict`): Of the folder, by [`read_generation_config`].

    Raises:
        ValueError: If an option needs torch.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "suppress_tokens" in given:  # whoever suppresses tokens of their own still wants no placeholder
        given["suppress_tokens"] = sorted({*given["suppress_tokens"], *settings.get("suppress_tokens", ())})
    chosen = {**settings, **_supported(given, "This call has")}
    for name, as_list in (("eos_token_id", int), ("stop_strings", str)):
        if isinstance(chosen.get(name), as_list):
            chosen[name] = [chosen[name]]
    return Decoding(**chosen)


def _supported(settings: dict, what: str) -> dict:
    """Settings without those that change nothing."""
    known = {field.name for field in fields(Decoding)}
    kept = {}
    for name, value in settings.items():
        if name in known:
            kept[name] = value
        elif name not in ANY_VALUE and (name not in NEUTRAL or value != NEUTRAL[name]):
            raise ValueError(
                f"{what} {name}={repr(value)[:MAX_SHOWN]}, which the backend onnxruntime does not have: leave it out, "
                "or use the backend torch."
            )
    return kept
