# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Answers have the form that OpenAI's own types validate."""

import json
import math

from openai.types import chat
from samples import make_tokenizer

from flashsloth.serve.protocol import RequestError
from flashsloth.serve.responses import Completion, error_event
from flashsloth.serve.row import Piece, Token
from flashsloth.serve.sampling import TokenLogprobs


TOKENIZER = make_tokenizer()
A, HALF = TOKENIZER.encode("a")[0], TOKENIZER.encode("é")[0]


def completion(has_logprobs: bool = False, include_usage: bool = True) -> Completion:
    return Completion("m", TOKENIZER, 7, has_logprobs, include_usage)


def events_of(data: bytes) -> list[chat.ChatCompletionChunk]:
    events = data.decode().removesuffix("\n\n").split("\n\n")
    return [chat.ChatCompletionChunk.model_validate(json.loads(event.removeprefix("data: "))) for event in events]


def test_object():
    pieces = [Piece("a", num_tokens=2, finish_reason="stop"), Piece("b", num_tokens=3, finish_reason="length")]
    body = chat.ChatCompletion.model_validate(completion().body(pieces), strict=True)
    assert [(choice.message.content, choice.finish_reason) for choice in body.choices] == [
        ("a", "stop"),
        ("b", "length"),
    ]
    assert (body.usage.prompt_tokens, body.usage.completion_tokens, body.usage.total_tokens) == (7, 5, 12)
    assert body.choices[0].logprobs is None and body.id != completion().id


def test_events():
    answer = completion()
    data = answer.first_event(1) + answer.events(1, Piece("a")) + answer.events(1, Piece("b", [], 3, "stop"))
    chunks = events_of(data + answer.usage_event([Piece("b", [], 3, "stop")]))
    deltas = [(c.delta.role, c.delta.content, c.finish_reason) for chunk in chunks for c in chunk.choices]
    assert deltas == [("assistant", "", None), (None, "a", None), (None, "b", None), (None, None, "stop")]
    assert chunks[-1].usage.total_tokens == 10
    assert completion(include_usage=False).usage_event([]) == b""


def test_logprobs_of_half_a_character_and_of_a_token_that_cannot_be():
    tokens = [Token(A, TokenLogprobs(-0.5, [(A, -0.5), (HALF, -math.inf)]))]
    body = completion(has_logprobs=True).body([Piece("a", tokens, 1, "stop")])
    (token,) = chat.ChatCompletion.model_validate(body).choices[0].logprobs.content
    assert (token.token, token.bytes, token.logprob) == ("a", [97], -0.5)
    assert (token.top_logprobs[1].bytes, token.top_logprobs[1].logprob) == (None, -9999.0)
    json.dumps(body, allow_nan=False)


def test_error():
    event = json.loads(error_event(RequestError("Wrong.", "n", "code")).removeprefix(b"data: "))
    assert event == {"error": {"message": "Wrong.", "type": "invalid_request_error", "param": "n", "code": "code"}}
