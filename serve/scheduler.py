# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Answers the requests that wait together, with `model.generate` alone. One thread owns the model.

A batch runs until all its answers are complete, or until others wait and there is room for them. Then the stopping
criteria end the call of `generate`; rows that are complete leave, the new rows get their first token by a `generate`
of their own, both caches are padded on the left to one length and concatenated, and `generate` goes on with them. So
an answer waits for no other one to end. The images and the query tokens of a row act on its prompt only, so that a
row that goes on needs its token ids, its attention mask and its part of the cache.

Decoding gets at least as much time as reading prompts: what comes while a batch runs is gathered for as long as the
last prompts took. On models whose cache has layers of another kind (sliding windows, linear attention), and with
generation settings that count from a prompt's end, a batch runs to its end, and what waits is answered after it.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from flashsloth.modeling_flashsloth import CACHE_NAME
from flashsloth.serve.answer_text import AnswerText
from flashsloth.serve.sampling import RowSampler, Sampling, TokenLogprobs


logger = logging.getLogger(__name__)

# Settings of `generate` that count tokens from the end of the prompt, which a call that goes on would count anew.
COUNTED_FROM_PROMPT = (
    "min_new_tokens",
    "exponential_decay_length_penalty",
    "begin_suppress_tokens",
    "forced_eos_token_id",
)
MIN_STEPS = 16  # before rows that are complete are taken out only because they are half of the batch
MAX_GATHERING = 0.5  # seconds that a request waits at most for others that are being prepared

STOP, LENGTH = "stop", "length"  # why an answer ended


@dataclass(frozen=True)
class Prompt:
    """
    A prompt as the model takes it.

    Args:
        input_ids (`torch.LongTensor` of shape `(L,)`): With all placeholders expanded.
        pixel_values (`torch.Tensor` of shape `(N, 3, height, width)`, *optional*): The views of its images.
    """

    input_ids: torch.Tensor
    pixel_values: torch.Tensor | None = None


@dataclass(frozen=True)
class Token:
    """A token of an answer, with its log probabilities."""

    token_id: int
    logprobs: TokenLogprobs


@dataclass(frozen=True)
class Piece:
    """
    A part of an answer.

    Args:
        text (`str`): The text since the last piece.
        tokens (`list[Token]`): Its tokens, if their log probabilities are asked for.
        num_tokens (`int`): How many tokens the answer has so far, its end included.
        finish_reason (`str`, *optional*): `"stop"` or `"length"` in the last piece.
        error (`Exception`, *optional*): Why there is no answer; in the last piece.
    """

    text: str
    tokens: list[Token] = field(default_factory=list)
    num_tokens: int = 0
    finish_reason: str | None = None
    error: Exception | None = None


class Row:
    """
    One answer that is to be made.

    Args:
        prompt ([`Prompt`]): What is asked.
        max_new_tokens (`int`): Its longest length.
        deliver (`Callable[[Piece], None]`): Gets its pieces, in the thread of the scheduler; it must not block.
        sampling ([`Sampling`], *optional*): How its tokens are chosen; greedily if unset.
        stop (`Sequence[str]`, *optional*): Strings that end it.
        is_streamed (`bool`, *optional*, defaults to `False`): Whether its pieces are delivered as they come, or all at
            the end as one.
    """

    def __init__(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        deliver: Callable[[Piece], None],
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        is_streamed: bool = False,
    ):
        self.prompt, self.max_new_tokens, self.deliver = prompt, max_new_tokens, deliver
        self.sampling = sampling or Sampling()
        self.stop, self.is_streamed = stop, is_streamed
        self.num_tokens = 0
        self.is_done = False  # complete, failed or cancelled
        self.submitted = 0.0
        self.seconds_waited = 0.0
        self._texts: list[str] = []
        self._tokens: list[Token] = []

    def cancel(self) -> None:
        """Nobody waits for the answer any more: it ends at the next token, or does not begin. Any thread may call."""
        self.is_done = True

    def begin(self, tokenizer, device: torch.device) -> None:
        self.seconds_waited = time.perf_counter() - self.submitted
        self.text = AnswerText(tokenizer, self.stop)
        self.generator = self.sampling.generator(device)

    def add(self, token_id: int, is_end: bool, logprobs: TokenLogprobs | None) -> None:
        """Takes the next token, and delivers what it completes."""
        self.num_tokens += 1
        if is_end:
            return self._finish(STOP, *self.text.finish())
        text, tokens = self.text.add(token_id, logprobs and Token(token_id, logprobs))
        self._keep(text, tokens)
        if self.text.is_stopped:
            return self._finish(STOP)
        if self.num_tokens == self.max_new_tokens:
            rest = self.text.finish()
            return self._finish(STOP if self.text.is_stopped else LENGTH, *rest)
        if self.is_streamed and (text or tokens):
            self._deliver(None)

    def fail(self, error: Exception) -> None:
        """Delivers an error in place of the rest. What the receiver raises concerns no other row, and is logged."""
        if not self.is_done:
            self.is_done = True
            try:
                self.deliver(Piece("", num_tokens=self.num_tokens, error=error))
            except Exception:
                logger.exception("An error could not be delivered")

    def _keep(self, text: str = "", tokens: Sequence[Token] = ()) -> None:
        self._texts.append(text)
        self._tokens += tokens

    def _finish(self, reason: str, text: str = "", tokens: Sequence[Token] = ()) -> None:
        self._keep(text, tokens)
        self.is_done = True
        self._deliver(reason)

    def _deliver(self, reason: str | None) -> None:
        piece = Piece("".join(self._texts), self._tokens, self.num_tokens, reason)
        self._texts, self._tokens = [], []
        self.deliver(piece)


@dataclass
class Batch:
    """
    Rows that are being answered.

    Args:
        rows (`list[Row]`): Of number B.
        input_ids (`torch.LongTensor` of shape `(B, L)`): Prompts and answers so far, padded on the left.
        attention_mask (`torch.LongTensor` of shape `(B, L)`): 1 for each token that is no padding.
        cache (`DynamicCache`): Of all positions but the last.
    """

    rows: list[Row]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    cache: DynamicCache

    def without_done(self) -> "Batch | None":
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

    def join(self, other: "Batch", pad_token_id: int) -> "Batch":
        """Both batches as one."""
        length = max(self.input_ids.shape[1], other.input_ids.shape[1])
        pads = [length - batch.input_ids.shape[1] for batch in (self, other)]

        def concatenated(tensors, value: int = 0, below: tuple[int, ...] = ()) -> torch.Tensor:
            padded = [F.pad(one, (*below, pad, 0), value=value) for one, pad in zip(tensors, pads, strict=True)]
            return torch.cat(padded)

        for layer, other_layer in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.keys = concatenated((layer.keys, other_layer.keys), below=(0, 0))
            layer.values = concatenated((layer.values, other_layer.values), below=(0, 0))
        return Batch(
            self.rows + other.rows,
            concatenated((self.input_ids, other.input_ids), pad_token_id),
            concatenated((self.attention_mask, other.attention_mask)),
            self.cache,
        )


class Progress(StoppingCriteria):
    """
    Hands the tokens of each step to their rows, and ends a call of `generate` when all rows are complete or when
    `should_pause` says so.

    Args:
        rows (`list[Row]`): Those of the batch.
        sampler ([`RowSampler`]): Has their log probabilities.
        end_token_ids (`set[int]`): Tokens that end an answer.
        should_pause (`Callable[[int, int], bool]`): Gets the number of steps and the number of incomplete rows.
    """

    def __init__(self, rows: list[Row], sampler: RowSampler, end_token_ids: set[int], should_pause):
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
        logprobs = self.sampler.logprobs(tokens)
        for index, (row, token_id) in enumerate(zip(self.rows, tokens, strict=True)):
            if not row.is_done:
                self._add(row, token_id, logprobs.get(index))
        num_left = sum(not row.is_done for row in self.rows)
        self.is_over = not num_left or self.should_pause(self.num_steps, num_left)

    def _add(self, row: Row, token_id: int, logprobs: TokenLogprobs | None) -> None:
        try:
            row.add(token_id, token_id in self.end_token_ids, logprobs)
        except Exception as error:  # of its text or its receiver: the other rows go on
            logger.exception("An answer failed")
            row.fail(error)


class Scheduler:
    """
    Answers rows in batches, in a thread of its own; a context manager.

    Args:
        model: A FlashSloth model that generates.
        tokenizer: Its tokenizer.
        max_batch_size (`int`): Most rows that are answered at once. It becomes less if the memory is too little.
    """

    def __init__(self, model, tokenizer, max_batch_size: int):
        self.model, self.tokenizer, self.max_batch_size = model, tokenizer, max_batch_size
        end_token_ids = model.generation_config.eos_token_id
        self.end_token_ids = {end_token_ids} if isinstance(end_token_ids, int) else set(end_token_ids)
        self.joins = _can_join(model)
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._num_preparing = 0
        self._is_closed = False
        self._prefill_seconds = self._decoding_since = 0.0
        self._in_hand: list[Row] = []  # no longer waiting, and not complete
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether rows are answered."""
        return self._thread.is_alive() and not self._is_closed

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """While a prompt is being prepared, a batch may wait for it."""
        with self._changed:
            self._num_preparing += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_preparing -= 1
                self._changed.notify()

    def submit(self, rows: Sequence[Row]) -> None:
        """Has rows answered; their pieces are delivered to them."""
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The scheduler is closed.")
            now = time.perf_counter()
            for row in rows:
                row.submitted = now
            self._waiting.extend(rows)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the step that it is in. Rows that are not complete fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        failure = RuntimeError("The server is stopped.")
        try:
            self._answer_rows()
        except Exception as error:  # a fault of this program: nobody is to wait for ever
            logger.exception("The scheduler failed: no request is answered any more")
            failure = error
        with self._changed:
            self._is_closed = True
            rows = [*self._in_hand, *self._waiting]
        for row in rows:
            row.fail(failure)

    @torch.inference_mode()
    def _answer_rows(self) -> None:
        batch: Batch | None = None
        while not self._is_closed:
            rows = self._take(batch)
            batch = batch and self._try(batch.rows, lambda kept: kept, batch)  # others may have been cancelled since
            num_running = len(batch.rows) if batch else 0
            new = self._try(rows, self._prefill, rows, batch is None, num_running=num_running) if rows else None
            if batch and new:
                batch = self._try(batch.rows + new.rows, batch.join, new, self.tokenizer.pad_token_id)
            batch = batch or new
            if batch and (not new or batch is not new):
                batch = self._try(batch.rows, self._generate, batch, self._should_pause)

    def _take(self, batch: Batch | None) -> list[Row]:
        """The rows that begin now. Without a batch to go on with, waits until there are some."""
        running = batch.rows if batch else []
        self._in_hand = [*running]
        with self._changed:
            while not self._is_closed:
                seconds = self._seconds_to_start(len(running))
                if seconds is not None and seconds <= 0:
                    room = self.max_batch_size - len(running)
                    rows = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
                    rows = [row for row in rows if not row.is_done]
                    self._in_hand += rows
                    return rows
                if batch:
                    break
                self._changed.wait(seconds)
        return []

    def _seconds_to_start(self, num_running: int) -> float | None:
        """How long the rows that wait have to wait on for others; `None` if there are none, or no room for them."""
        while self._waiting and self._waiting[0].is_done:
            self._waiting.popleft()
        room = self.max_batch_size - num_running
        if not self._waiting or room <= 0 or (num_running and not self.joins):
            return None
        now = time.perf_counter()
        share = self._decoding_since + self._prefill_seconds - now if num_running else 0
        if not self._num_preparing or len(self._waiting) >= room:
            return share
        return max(share, self._waiting[0].submitted + min(self._prefill_seconds, MAX_GATHERING) - now)

    def _should_pause(self, num_steps: int, num_left: int, num_rows: int) -> bool:
        if self._is_closed or (self.joins and num_steps >= MIN_STEPS and num_left <= num_rows / 2):
            return True
        if not self._waiting:  # most steps take no lock
            return False
        with self._changed:
            seconds = self._seconds_to_start(num_left)
        return seconds is not None and seconds <= 0

    def _try(self, rows: list[Row], function: Callable, *args, num_running: int = 0) -> Batch | None:
        """What is left of the batch that a function gives. If it fails, so do the rows, and the next may go well."""
        try:
            return function(*args).without_done()
        except (MemoryError, torch.OutOfMemoryError) as error:
            logger.warning("There is too little memory for %d answers at once", num_running + len(rows))
            if self._is_smaller(rows, num_running):
                return None
            failure = error
        except Exception as error:  # of the model or the device
            logger.exception("A batch of %d answers failed", len(rows))
            failure = error
        for row in rows:
            row.fail(failure)
        return None

    def _is_smaller(self, rows: list[Row], num_running: int) -> bool:
        """Makes the next batches half as large; whether rows for which memory was too little can be tried again."""
        num_rows = num_running + len(rows)
        if num_rows == 1:
            return False
        self.max_batch_size = num_rows // 2
        if any(row.num_tokens for row in rows):  # which a client may have
            return False
        with self._changed:
            self._waiting.extendleft(reversed(rows))
        return True

    def _prefill(self, rows: list[Row], is_alone: bool) -> Batch:
        """New rows with their first token; if they are alone, with all until something else is to be done."""
        for row in rows:
            row.begin(self.tokenizer, self.model.device)
        device, start = self.model.device, time.perf_counter()
        ids = [row.prompt.input_ids for row in rows]
        views = [row.prompt.pixel_values for row in rows if row.prompt.pixel_values is not None]
        pixel_values = torch.cat(views).to(device, self.model.dtype) if views else None
        batch = Batch(
            rows,
            _left_padded(ids, self.tokenizer.pad_token_id).to(device),
            _left_padded(map(torch.ones_like, ids), 0).to(device),
            DynamicCache(config=self.model.config.text_config),
        )

        def should_pause(num_steps: int, num_left: int, num_rows: int) -> bool:
            if num_steps == 1:
                self._decoding_since = time.perf_counter()
                self._prefill_seconds = self._decoding_since - start
            return not is_alone or self._should_pause(num_steps, num_left, num_rows)

        return self._generate(batch, should_pause, pixel_values=pixel_values)

    def _generate(self, batch: Batch, should_pause, **images) -> Batch:
        rows = batch.rows
        device = batch.input_ids.device
        sampler = RowSampler([row.sampling for row in rows], [row.generator for row in rows], device)
        progress = Progress(
            rows, sampler, self.end_token_ids, lambda steps, left: should_pause(steps, left, len(rows))
        )
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


def _can_join(model) -> bool:
    """Whether rows can join a batch that runs."""
    layers = DynamicCache(config=model.config.text_config).layers
    settings = model.generation_config.to_dict()
    is_counted = any(settings.get(name) is not None for name in COUNTED_FROM_PROMPT)
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers) and not is_counted
