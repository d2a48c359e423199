# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Answers batches by onnxruntime, with numpy alone. Two batches become one by padding on the left, as those of torch do.
Each row has noise of its own: Gumbel noise is added to its scores, and the largest of such sums is a sample.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime

from flashsloth.assistant.onnx_backend import OnnxBackend
from flashsloth.assistant.onnx_model import Features
from flashsloth.assistant.sampling import decoding, divided, nucleus
from flashsloth.serve.row import Row, add_tokens
from flashsloth.serve.sampling import Sampling, TokenLogprobs
from flashsloth.serve.scheduler import ShouldPause


ALLOCATION = "alloc"  # is in onnxruntime's messages about memory, which have no class of their own


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raises a `MemoryError` where onnxruntime has an error of its own."""
    try:
        yield
    except Exception as error:  # onnxruntime has no common class of its errors
        if not isinstance(error, MemoryError) and ALLOCATION in str(error).lower():
            raise MemoryError(str(error)) from error
        raise


@dataclass
class OnnxBatch:
    """
    Rows that are being answered.

    Args:
        rows (`list[Row]`): Of number B.
        input_ids (`np.ndarray` of shape `(B, L)`): Prompts and answers so far, padded on the left.
        mask (`np.ndarray` of shape `(B, L)`): 1 for each token that is no padding.
        past (`list[onnxruntime.OrtValue]` of shape `(B, heads, past_length, head size)`): Keys and values.
        past_length (`int`): Positions in them: none, or all but the last.
    """

    rows: list[Row]
    input_ids: np.ndarray
    mask: np.ndarray
    past: list
    past_length: int = 0

    def without_done(self) -> "OnnxBatch | None":
        """The rows that are not complete, without padding that all of them have; `None` if there is none."""
        kept = [index for index, row in enumerate(self.rows) if not row.is_done]
        if not kept:
            return None
        padding = int(self.mask[kept].argmax(axis=1).min())
        if padding or len(kept) < len(self.rows):
            self.rows = [self.rows[row] for row in kept]
            self.input_ids, self.mask = self.input_ids[kept, padding:], self.mask[kept, padding:]
            self.past = [_ort_value(states.numpy()[kept, :, padding:]) for states in self.past]
            self.past_length -= padding
        return self

    def join(self, other: "OnnxBatch") -> "OnnxBatch":
        """Both batches as one."""
        longest = max(self.past_length, other.past_length)
        pads = [longest - batch.past_length for batch in (self, other)]
        return OnnxBatch(
            self.rows + other.rows,
            _concatenated((self.input_ids, other.input_ids), pads),
            _concatenated((self.mask, other.mask), pads),
            [
                _ort_value(_concatenated([states.numpy() for states in pair], pads, axis=2))
                for pair in zip(self.past, other.past, strict=True)
            ],
            longest,
        )


class OnnxEngine:
    """
    An exported model, for the scheduler.

    Args:
        backend ([`~flashsloth.assistant.onnx_backend.OnnxBackend`]): The model, its settings and its processor.
    """

    joins = True

    def __init__(self, backend: OnnxBackend):
        self.backend, self.model, self.tokenizer = backend, backend.model, backend.processor.tokenizer
        self.decoding = decoding({}, backend.settings)
        self.end_token_ids = set(self.decoding.eos_token_id)

    @memory_errors()
    def begin(self, rows: list[Row], should_pause: ShouldPause) -> OnnxBatch:
        """See [`~flashsloth.serve.scheduler.Engine`]."""
        for row in rows:
            row.generator = np.random.default_rng(row.sampling.noise_seed())
        ids = [np.asarray(row.prompt.input_ids, np.int64) for row in rows]
        pads = [max(map(len, ids)) - len(one) for one in ids]
        batch = OnnxBatch(
            rows,
            _concatenated([one[None] for one in ids], pads),
            _concatenated([np.ones_like(one)[None] for one in ids], pads),
            self.model.empty_past(len(rows)),
        )
        return self._answer(batch, self._encode(rows), should_pause)

    @memory_errors()
    def go_on(self, batch: OnnxBatch, should_pause: ShouldPause) -> OnnxBatch:
        """See [`~flashsloth.serve.scheduler.Engine`]."""
        return self._answer(batch, None, should_pause)

    def _encode(self, rows: list[Row]) -> Features | None:
        views = [row.prompt.pixel_values for row in rows if row.prompt.pixel_values is not None]
        if not views:
            return None
        counts = [0 if row.prompt.pixel_values is None else len(row.prompt.pixel_values) for row in rows]
        view_mask = np.arange(max(counts)) < np.array(counts)[:, None]
        return self.model.encode(np.concatenate([np.asarray(one) for one in views]), view_mask.astype(np.int64))

    def _answer(self, batch: OnnxBatch, features: Features | None, should_pause: ShouldPause) -> OnnxBatch:
        num_steps, num_left, new_ids = 0, len(batch.rows), batch.input_ids[:, batch.past_length :]
        while num_left and not (num_steps and should_pause(num_steps, num_left)):
            inputs = self.model.decoder_inputs(new_ids, batch.mask, features, batch.past_length)
            logits, batch.past = self.model.decode(inputs, batch.past)
            batch.past_length += new_ids.shape[1]
            features = None  # later positions hold no images and no query tokens
            tokens, logprobs = self._choose(batch, logits[:, -1])
            new_ids = np.array(tokens)[:, None]
            batch.input_ids = np.concatenate([batch.input_ids, new_ids], axis=1)
            batch.mask = np.concatenate([batch.mask, np.ones_like(new_ids)], axis=1)
            num_left = add_tokens(batch.rows, tokens, self.end_token_ids, logprobs)
            num_steps += 1
        return batch

    def _choose(self, batch: OnnxBatch, logits: np.ndarray) -> tuple[list[int], dict[int, TokenLogprobs]]:
        """The next token of each row, and log probabilities by number of the row."""
        tokens, logprobs = [], {}
        for index, row in enumerate(batch.rows):
            ids = batch.input_ids[index][batch.mask[index].astype(bool)]
            scores = self.decoding.scores(logits[index], ids, row.num_tokens)
            tokens.append(draw(scores, row.sampling, row.generator))
            if row.sampling.top_logprobs is not None:
                logprobs[index] = log_probabilities(scores, tokens[-1], row.sampling.top_logprobs)
        return tokens, logprobs


def draw(scores: np.ndarray, sampling: Sampling, generator: np.random.Generator) -> int:
    """
    The next token of a row.

    Args:
        scores (`np.ndarray` of shape `(vocabulary,)`): Of its tokens.
        sampling ([`Sampling`]): How it is chosen.
        generator (`np.random.Generator`): The source of its noise.
    """
    if not sampling.temperature:
        return int(scores.argmax())
    scores = divided(scores, sampling.temperature)
    if sampling.top_p < 1:
        scores = nucleus(scores, sampling.top_p)
    return int((scores - np.log(generator.standard_exponential(len(scores)))).argmax())


def log_probabilities(scores: np.ndarray, token: int, most: int) -> TokenLogprobs:
    """
    The log probabilities of a row's last step.

    Args:
        scores (`np.ndarray` of shape `(vocabulary,)`): Of its tokens.
        token (`int`): The token that was chosen.
        most (`int`): How many of the likeliest tokens to tell.
    """
    values = scores - scores.max()
    values = values - np.log(np.exp(values).sum())
    likeliest = (-values).argsort(kind="stable")[:most]
    return TokenLogprobs(float(values[token]), [(int(one), float(values[one])) for one in likeliest])


def _ort_value(array: np.ndarray) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _concatenated(arrays: Sequence[np.ndarray], pads: Sequence[int], axis: int = 1) -> np.ndarray:
    """Arrays one below the other, with so many zeros before each along an axis."""
    return np.concatenate(
        [
            np.pad(one, [(pad if number == axis else 0, 0) for number in range(one.ndim)])
            for one, pad in zip(arrays, pads, strict=True)
        ]
    )
