# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""One answer while it is made: what is asked, how its tokens are chosen, and the pieces of text that they make."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from flashsloth.serve.answer_text import AnswerText
from flashsloth.serve.sampling import Sampling, TokenLogprobs


logger = logging.getLogger(__name__)

STOP, LENGTH = "stop", "length"  # why an answer ended


@dataclass(frozen=True)
class Prompt:
    """
    A prompt as the model takes it.

    Args:
        input_ids (`np.ndarray` of shape `(L,)`): With all placeholders expanded.
        pixel_values (`np.ndarray` of shape `(N, 3, height, width)`, *optional*): The views of its images.
    """

    input_ids: np.ndarray
    pixel_values: np.ndarray | None = None


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
        self.generator = None  # the engine's source of its noise
        self.submitted = 0.0
        self.seconds_waited = 0.0
        self._texts: list[str] = []
        self._tokens: list[Token] = []

    def cancel(self) -> None:
        """Nobody waits for the answer any more: it ends at the next token, or does not begin. Any thread may call."""
        self.is_done = True

    def begin(self, tokenizer) -> None:
        self.seconds_waited = time.perf_counter() - self.submitted
        self.text = AnswerText(tokenizer, self.stop)

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


def add_tokens(
    rows: Sequence[Row], tokens: Sequence[int], end_token_ids: set[int], logprobs: dict[int, TokenLogprobs]
) -> int:
    """
    Hands the tokens of a step to their rows.

    Args:
        rows (`Sequence[Row]`): Those of a batch. Complete ones get no more tokens.
        tokens (`Sequence[int]`): The next token of each.
        end_token_ids (`set[int]`): Tokens that end an answer.
        logprobs (`dict[int, TokenLogprobs]`): By number of the row, for those that ask for them.

    Returns:
        `int`: How many rows are not complete.
    """
    for index, (row, token_id) in enumerate(zip(rows, tokens, strict=True)):
        if row.is_done:
            continue
        try:
            row.add(token_id, token_id in end_token_ids, logprobs.get(index))
        except Exception as error:  # of its text or its receiver: the other rows go on
            logger.exception("An answer failed")
            row.fail(error)
    return sum(not row.is_done for row in rows)
