# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Answers batches with `model.generate` alone: its stopping criteria end a call when the scheduler has something else to
do, and the next call goes on with the cache.

Two batches become one by padding both caches on the left to one length. The images and the query tokens of a row act
on its prompt only, so that a row that goes on needs its token ids, its attention mask and its part of the cache.
Batches do not become one on models whose cache has layers of another kind (sliding windows, linear attention), nor
with generation settings that count from a prompt's end.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from flashsloth.assistant.torch_backend import TorchBackend
from flashsloth.modeling_flashsloth import CACHE_NAME
from flashsloth.serve.row import Row, add_tokens
from flashsloth.serve.scheduler import ShouldPause
from flashsloth.serve.torch_sampler import RowSampler, new_generator


# Settings of `generate` that count tokens from the end of the prompt, which a call that goes on would count anew.
COUNTED_FROM_PROMPT = (
    "min_new_tokens",
    "exponential_decay_length_penalty",
    "begin_suppress_tokens",
    "forced_eos_token_id",
)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raises a `MemoryError` where torch has an error of its own."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error


@dataclass
class TorchBatch:
    """
    Rows that are being answered.

    Args:
        rows (`list[Row]`): Of number B.
        input_ids (`torch.LongTensor` of shape `(B, L)`): Prompts and answers so far, padded on the left.
        attention_mask (`torch.LongTensor` of shape `(B, L)`): 1 for each token that is no padding.
        cache (`DynamicCache`): Of all positions but the last.
        pad_token_id (`int`): Stands for padding.
    """

    rows: list[Row]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    cache: DynamicCache
    pad_token_id: int

    @memory_errors()
    @torch.inference_mode()
    def without_done(self) -> "TorchBatch | None":
        """The rows that are not complete, without padding that all of them have; `None` if there is none."""
        kept = [index for index, row in enumerate(self.rows) if not row.is_done]
        if not kept:
            return None
        if len(kept) < len(self.rows):
            index = torch.tensor(kept, device=self.input_ids.device)
            self.rows = [self.rows[row] for row in kept]
            self.input_ids, self.attention_mask = self.input_ids[index], self.attention_mask[index]
            self.cache.batch_select_indices(index)
        padding = int(self.attention_mask.argmax(dim=-1).min())
        if padding:
            self.input_ids, self.attention_mask = self.input_ids[:, padding:], self.attention_mask[:, padding:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, padding:], layer.values[:, :, padding:]
        return self

    @memory_errors()
    @torch.inference_mode()
    def join(self, other: "TorchBatch") -> "TorchBatch":
        """Both batches as one."""
        length = max(self.input_ids.shape[1], other.input_ids.shape[1])
        pads = [length - batch.input_ids.shape[1] for batch in (self, other)]

        def concatenated(tensors, value: int = 0, below: tuple[int, ...] = ()) -> torch.Tensor:
            padded = [F.pad(one, (*below, pad, 0), value=value) for one, pad in zip(tensors, pads, strict=True)]
            return torch.cat(padded)

        for layer, other_layer in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.keys = concatenated((layer.keys, other_layer.keys), below=(0, 0))
            layer.values = concatenated((layer.values, other_layer.values), below=(0, 0))
        return TorchBatch(
            self.rows + other.rows,
            concatenated((self.input_ids, other.input_ids), self.pad_token_id),
            concatenated((self.attention_mask, other.attention_mask)),
            self.cache,
            self.pad_token_id,
        )


class Progress(StoppingCriteria):
    """
    Hands the tokens of each step to their rows, and ends a call of `generate` when all rows are complete or when
    `should_pause` says so.

    Args:
        rows (`list[Row]`): Those of the batch.
        sampler ([`RowSampler`]): Has their log probabilities.
        end_token_ids (`set[int]`): Tokens that end an answer.
        should_pause (`ShouldPause`): Gets the number of steps and the number of incomplete rows.
    """

    def __init__(self, rows: list[Row], sampler: RowSampler, end_token_ids: set[int], should_pause: ShouldPause):
        self.rows, self.sampler, self.end_token_ids = rows, sampler, end_token_ids
        self.should_pause = should_pause
        self.num_steps = 0
        self.is_over = False

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        if not self.is_over:  # on some devices `generate` takes one more step, and drops it
            self._step(input_ids[:, -1].tolist())
        done = [True] * len(self.rows) if self.is_over else [row.is_done for row in self.rows]
        return torch.tensor(done, device=input_ids.device)

    def _step(self, tokens: list[int]) -> None:
        self.num_steps += 1
        num_left = add_tokens(self.rows, tokens, self.end_token_ids, self.sampler.logprobs(tokens))
        self.is_over = not num_left or self.should_pause(self.num_steps, num_left)


class TorchEngine:
    """
    A model of transformers, for the scheduler.

    Args:
        backend ([`~flashsloth.assistant.torch_backend.TorchBackend`]): The model and its processor.
    """

    def __init__(self, backend: TorchBackend):
        self.backend, self.model, self.tokenizer = backend, backend.model, backend.processor.tokenizer
        end_token_ids = self.model.generation_config.eos_token_id
        self.end_token_ids = {end_token_ids} if isinstance(end_token_ids, int) else set(end_token_ids)
        self.joins = can_join(self.model)

    @memory_errors()
    @torch.inference_mode()
    def begin(self, rows: list[Row], should_pause: ShouldPause) -> TorchBatch:
        """See [`~flashsloth.serve.scheduler.Engine`]."""
        device, pad_token_id = self.model.device, self.tokenizer.pad_token_id
        for row in rows:
            row.generator = new_generator(row.sampling, device)
        ids = [torch.as_tensor(row.prompt.input_ids) for row in rows]
        views = [torch.as_tensor(row.prompt.pixel_values) for row in rows if row.prompt.pixel_values is not None]
        pixel_values = torch.cat(views).to(device, self.model.dtype) if views else None
        batch = TorchBatch(
            rows,
            _left_padded(ids, pad_token_id).to(device),
            _left_padded(map(torch.ones_like, ids), 0).to(device),
            DynamicCache(config=self.model.config.text_config),
            pad_token_id,
        )
        return self._generate(batch, should_pause, pixel_values=pixel_values)

    @memory_errors()
    @torch.inference_mode()
    def go_on(self, batch: TorchBatch, should_pause: ShouldPause) -> TorchBatch:
        """See [`~flashsloth.serve.scheduler.Engine`]."""
        return self._generate(batch, should_pause)

    def _generate(self, batch: TorchBatch, should_pause: ShouldPause, **images) -> TorchBatch:
        rows, device = batch.rows, batch.input_ids.device
        sampler = RowSampler([row.sampling for row in rows], [row.generator for row in rows], device)
        progress = Progress(rows, sampler, self.end_token_ids, should_pause)
        batch.input_ids = self.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            **images,
            **{CACHE_NAME: batch.cache},
            max_new_tokens=max(row.max_new_tokens - row.num_tokens for row in rows),
            do_sample=False,
            num_beams=1,
            num_return_sequences=1,
            use_cache=True,
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([progress]),
        )
        batch.attention_mask = F.pad(batch.attention_mask, (0, progress.num_steps), value=1)
        return batch


def _left_padded(tensors, value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(tensors), True, value, padding_side="left")


def can_join(model) -> bool:
    """Whether rows can join a batch that runs."""
    layers = DynamicCache(config=model.config.text_config).layers
    settings = model.generation_config.to_dict()
    is_counted = any(settings.get(name) is not None for name in COUNTED_FROM_PROMPT)
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers) and not is_counted
