# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Answers in the form of OpenAI's API: one object, or the events of a stream."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from flashsloth.serve.protocol import RequestError
from flashsloth.serve.row import Piece, Token


DONE = b"data: [DONE]\n\n"
# OpenAI's number for a probability of almost nothing; JSON has no infinity.
LEAST_LOGPROB = -9999.0
REPLACEMENT = "\ufffd"  # what a part of a character is decoded to


@dataclass
class Completion:
    """
    The answers to one request.

    Args:
        model (`str`): The model's name.
        tokenizer (`PreTrainedTokenizerFast`): Its tokenizer.
        prompt_tokens (`int`): Length of the prompt, visual tokens and query tokens included.
        has_logprobs (`bool`): Whether log probabilities are asked for.
        include_usage (`bool`): Whether a stream ends with the number of tokens.
    """

    model: str
    tokenizer: object
    prompt_tokens: int
    has_logprobs: bool
    include_usage: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, pieces: Sequence[Piece]) -> dict:
        """The object for answers that are complete, one piece for each."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": piece.text, "refusal": None},
                "logprobs": self._logprobs(piece.tokens),
                "finish_reason": piece.finish_reason,
            }
            for index, piece in enumerate(pieces)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(pieces)}

    def first_event(self, index: int) -> bytes:
        """The event that begins the answer of an index."""
        return self._event(self._choice(index, {"role": "assistant", "content": "", "refusal": None}, None, None))

    def events(self, index: int, piece: Piece) -> bytes:
        """The events of a piece."""
        events = b""
        if piece.text or piece.tokens:
            events = self._event(self._choice(index, {"content": piece.text}, self._logprobs(piece.tokens), None))
        if piece.finish_reason:
            events += self._event(self._choice(index, {}, None, piece.finish_reason))
        return events

    def usage_event(self, last_pieces: Sequence[Piece]) -> bytes:
        """The last event, if it is asked for."""
        if not self.include_usage:
            return b""
        return _event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(last_pieces)})

    def _head(self, kind: str) -> dict:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, delta: dict, logprobs: dict | None, finish_reason: str | None) -> dict:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def _event(self, choice: dict) -> bytes:
        usage = {"usage": None} if self.include_usage else {}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], **usage})

    def _usage(self, pieces: Sequence[Piece]) -> dict:
        completion_tokens = sum(piece.num_tokens for piece in pieces)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        }

    def _logprobs(self, tokens: Sequence[Token]) -> dict | None:
        if not self.has_logprobs:
            return None
        content = [
            {
                **self._token(token.token_id, token.logprobs.chosen),
                "top_logprobs": [self._token(*pair) for pair in token.logprobs.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> dict:
        text = self.tokenizer.decode([token_id])
        # Part of a character has no text of its own, and so no bytes here.
        text_bytes = None if REPLACEMENT in text else list(text.encode())
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": text_bytes}


def error_event(error: RequestError) -> bytes:
    """An error after a stream has begun."""
    return _event(error.body())


def _event(content: dict) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
