# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Every field of OpenAI's API is supported, without effect on an answer, or refused by name; none is ignored."""

import json
import sys
import typing

import pytest
from openai.types.chat import completion_create_params

from flashsloth.serve.protocol import (
    KNOWN,
    NEUTRAL,
    SUPPORTED,
    WITHOUT_EFFECT,
    RequestError,
    parse_json,
    parse_request,
)


URL = "data:image/png;base64,AAAA"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
TEXT = {"type": "text", "text": "What is this?"}


def request(**fields) -> dict:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields}


def user(*content) -> dict:
    return {"messages": [{"role": "user", "content": list(content)}]}


def detailed(*details: str) -> dict:
    return user(*({"type": "image_url", "image_url": {"url": URL, "detail": detail}} for detail in details))


def test_all_fields_of_the_api_are_known():
    fields = set()
    for kind in typing.get_args(completion_create_params.CompletionCreateParams):
        fields |= set(typing.get_type_hints(kind))
    assert fields == KNOWN - {"hd", "chat_template_kwargs"}
    assert not SUPPORTED & WITHOUT_EFFECT and not SUPPORTED & NEUTRAL.keys() and not WITHOUT_EFFECT & NEUTRAL.keys()


def test_defaults():
    chat = parse_request(request())
    assert (chat.temperature, chat.top_p, chat.n, chat.stream, chat.top_logprobs) == (0, 1, 1, False, None)
    assert (chat.hd, chat.max_new_tokens, chat.seed, chat.stop, chat.include_usage) == (None, None, None, (), False)


def test_null_is_a_missing_field():
    fields = dict.fromkeys(KNOWN - {"model", "messages"})
    assert parse_request(request(**fields)) == parse_request(request())


def test_conversation():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [IMAGE, TEXT]},
        {"role": "assistant", "content": "A bird.", "refusal": None, "tool_calls": None},
        {"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}]},
    ]
    chat = parse_request(request(messages=messages))
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user"]
    assert chat.messages[1]["content"] == [{"type": "image"}, TEXT]
    assert chat.images == [URL, "https://a.b/c.png"]


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_tokens": 5}, "max_new_tokens", 5),
        ({"max_completion_tokens": 5}, "max_new_tokens", 5),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_new_tokens", 5),
        ({"temperature": 1}, "temperature", 1.0),
        ({"top_p": 0.5}, "temperature", 1.0),  # which would have no effect on a greedy answer
        ({"stop": "a"}, "stop", ("a",)),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
        ({"logprobs": True}, "top_logprobs", 0),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs", 3),
        ({"hd": True}, "hd", True),
        ({"chat_template_kwargs": {"hd": False}}, "hd", False),
        (detailed("high", "high", "auto"), "hd", True),
        (detailed("low"), "hd", False),
        ({"stream": True, "stream_options": {"include_usage": True}}, "include_usage", True),
        ({"response_format": {"type": "text"}, "frequency_penalty": 0.0, "tools": []}, "n", 1),
        ({"user": "someone", "metadata": {"a": "b"}, "store": False}, "n", 1),
    ],
)
def test_field(fields, name, value):
    assert getattr(parse_request(request(**fields)), name) == value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperatur": 1}, "temperatur"),
        ({"top_k": 5}, "top_k"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"audio": {}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"frequency_penalty": False}, "frequency_penalty"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"prediction": {}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "5"}]}, "messages.0.role"),
        ({"messages": [{"role": [], "content": "5"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a", "name": "Bob"}]}, "messages.0.name"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ({"messages": [{"role": "system", "content": [IMAGE]}]}, "messages.0.content.0"),
        (user({"type": "text"}), "messages.0.content.0.text"),
        (user("text"), "messages.0.content.0"),
        (user({"type": "input_audio", "input_audio": {}}), "messages.0.content.0"),
        (user({"type": "file", "file": {}}), "messages.0.content.0"),
        (user({"type": "image_url", "image_url": URL}), "messages.0.content.0.image_url"),
        (user({"type": "image_url", "image_url": {"url": URL, "size": 5}}), "messages.0.content.0.image_url.size"),
        (detailed("original"), "messages.0.content.0.image_url.detail"),
        (detailed("low", "high"), "hd"),
        ({"hd": True, "chat_template_kwargs": {"hd": False}}, "hd"),
        ({"hd": 1}, "hd"),
        ({"chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs.thinking"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 1 << 64}, "seed"),
        ({"seed": "a"}, "seed"),
        ({"n": 0}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream": True, "stream_options": {"more": True}}, "stream_options.more"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields, param):
    with pytest.raises(RequestError) as caught:
        parse_request(request(**fields))
    error = caught.value
    assert (error.status, error.param, error.kind) == (400, param, "invalid_request_error")
    assert param.rpartition(".")[2].rstrip("0123456789") in error.message or param == "messages"
    assert set(error.body()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"a"',
        b"\xff",
        b'{"a": "\xed\xa0\x80"}',
        b'{"temperature": NaN}',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
)
def test_no_json_object(body):
    with pytest.raises(RequestError, match="JSON") as caught:
        parse_json(body)
    assert caught.value.status == 400


def test_json_object():
    fields = {"a": "é", "b": ["\U0001f98a"]}  # a fox, which JSON writes as a pair of surrogates
    assert parse_json(json.dumps(fields).encode()) == parse_json(json.dumps(fields).encode("utf-8-sig")) == fields


def test_half_a_character_at_any_depth():
    """Also where it can just be read, and no longer be written."""
    limit = sys.getrecursionlimit()
    for depth in range(limit - 100, limit):
        with pytest.raises(RequestError):
            parse_json(b'{"user": ' + b"[" * depth + rb'"\ud800"' + b"]" * depth + b"}")


@pytest.mark.parametrize("name", ["x" * 1000, "\x1b[31m", "\u202e", "a\0"])
def test_a_name_is_shown_shortly_and_without_what_a_terminal_obeys(name):
    message = {"role": "user", "content": "Hello."}
    for fields in ({name: 1}, {"stream": True, "stream_options": {name: 1}}, {"messages": [{**message, name: 1}]}):
        with pytest.raises(RequestError) as caught:
            parse_request({"model": "m", "messages": [message], **fields})
        for text in (caught.value.message, caught.value.param):
            assert text.isprintable() and len(text) < 200


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"stop": ["\ud800"]}, "stop", r"'stop' holds the lone surrogate '\ud800'"),
        ({"user": "a\udfffb"}, "user", r"'user' holds the lone surrogate '\udfff'"),
        (
            {"model": "m", "messages": [{"role": "user", "content": [{"text": "\ude00"}]}]},
            "messages",
            "'messages' holds",
        ),
        ({"stream_options": {"\ud800": 1}}, "stream_options", "'stream_options' holds"),
        ({"a\ud800": 1}, r"a\ud800", r"'a\ud800' holds the lone surrogate"),
        ({"a" * 1000: "\ud800"}, "a" * 100 + "...", "...' holds the lone surrogate"),
    ],
)
def test_half_a_character_is_refused_wherever_it_is(fields, param, says):
    with pytest.raises(RequestError) as caught:
        parse_json(json.dumps(fields).encode())
    assert says in caught.value.message and (caught.value.param, caught.value.status) == (param, 400)
    json.dumps(caught.value.body(), ensure_ascii=False).encode()
