# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The body of a request to `/v1/chat/completions`: what its fields mean, and which are refused. Nothing is ignored that
could change an answer. Errors are in the words and the form of OpenAI's API.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


INVALID = "invalid_request_error"

# Fields that have an effect here. `hd` and `chat_template_kwargs` are this server's own.
SUPPORTED = {
    "chat_template_kwargs",
    "hd",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_logprobs",
    "top_p",
}
# Labels and caching hints: they never change an answer.
WITHOUT_EFFECT = {
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
}
# Fields that are refused, except with these values, which ask for what is done anyway.
NEUTRAL: dict[str, tuple] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
KNOWN = SUPPORTED | WITHOUT_EFFECT | NEUTRAL.keys()

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
HD_OF_DETAIL = {"auto": None, "low": False, "high": True}
MAX_SHOWN = 100  # characters of a client's word in an error
MAX_STOP = 4
MAX_TOP_LOGPROBS = 20
MAX_TEMPERATURE = 2
# JSON's escape of half a surrogate pair. In UTF-8 there is no other way to write one.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
SEEDS = range(-(1 << 63), 1 << 63)


class RequestError(Exception):
    """
    A request that gets an error for an answer.

    Args:
        message (`str`): What is wrong and what to do.
        param (`str`, *optional*): The field that it is about.
        code (`str`, *optional*): A word for programs.
        status (`int`, *optional*, defaults to 400): Of the answer.
        kind (`str`, *optional*): The error's `type`.
        headers (`dict[str, str]`, *optional*): Of the answer.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = INVALID,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.message, self.param, self.code, self.status, self.kind = message, param, code, status, kind
        self.headers = headers or {}

    def body(self) -> dict:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class ChatRequest:
    """
    A valid request.

    Args:
        model (`str`): The model that is asked.
        messages (`list[dict]`): The conversation in the processor's form; an image is its URL.
        images (`list[str]`): The URLs of its images, in order.
        hd (`bool`, *optional*): Whether images are processed in high definition; the checkpoint's default if unset.
        max_new_tokens (`int`, *optional*): The longest answer; the server's own limit if unset.
        temperature (`float`): 0 for greedy decoding.
        top_p (`float`): 1 for all tokens.
        seed (`int`, *optional*): Of the sampling.
        stop (`tuple[str, ...]`): Strings that end an answer.
        n (`int`): Number of answers.
        top_logprobs (`int`, *optional*): With log probabilities, of so many likeliest tokens too.
        stream (`bool`): Whether the answer is sent while it is made.
        include_usage (`bool`): Whether a stream ends with the number of tokens.
    """

    model: str
    messages: list[dict]
    images: list[str]
    hd: bool | None
    max_new_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    n: int
    top_logprobs: int | None
    stream: bool
    include_usage: bool


def parse_json(body: bytes) -> dict:
    """
    The JSON object in a request's body.

    Raises:
        RequestError: If it is none, or one of its strings holds half a character.
    """
    try:
        fields = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if isinstance(fields, dict) and SURROGATE.search(body):
            _check_characters(fields)
    except (ValueError, RecursionError) as error:  # nested too deep
        raise RequestError("The body of the request is not valid JSON: send one JSON object in UTF-8.") from error
    if not isinstance(fields, dict):
        raise RequestError("The body of the request is no JSON object: send one with model and messages.")
    return fields


def _check_characters(fields: dict) -> None:
    """Half a surrogate pair is no text: no tokenizer and no answer in UTF-8 can hold it."""
    for name, value in fields.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            message = f"'{_shown(name)}' holds the lone surrogate {half}, half a character: take it out."
            raise RequestError(message, _shown(name), "invalid_value") from error


def parse_request(fields: dict[str, Any]) -> ChatRequest:
    """
    What a request asks for.

    Args:
        fields (`dict`): Those of the request's JSON object. `null` is as good as a field that is missing.

    Raises:
        RequestError: If a field is unknown or not supported, or has a wrong value; the message names it.
    """
    fields = {name: value for name, value in fields.items() if value is not None}
    _check_fields(fields)
    messages, images, details = _messages(fields)
    top_p = _number(fields, "top_p", 1.0, 0, 1)
    temperature = _number(fields, "temperature", 0.0 if top_p == 1 else 1.0, 0, MAX_TEMPERATURE)
    stream = _boolean(fields, "stream", False)
    return ChatRequest(
        model=_typed(fields, "model", str, "a string"),
        messages=messages,
        images=images,
        hd=_hd(fields, details),
        max_new_tokens=_max_new_tokens(fields),
        temperature=temperature,
        top_p=top_p,
        seed=_integer(fields, "seed", SEEDS.start, SEEDS.stop - 1),
        stop=_stop(fields),
        n=_integer(fields, "n", 1) or 1,
        top_logprobs=_top_logprobs(fields),
        stream=stream,
        include_usage=_include_usage(fields, stream),
    )


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def _check_fields(fields: dict) -> None:
    for name, value in fields.items():
        if name not in KNOWN:
            shown = _shown(name)
            raise RequestError(f"Unrecognized request argument supplied: {shown}", shown, "unknown_parameter")
        if name in NEUTRAL and not any(
            value == neutral and type(value) is type(neutral) or _is_zero(value, neutral) for neutral in NEUTRAL[name]
        ):
            raise RequestError(f"{name} is not supported by this server: leave it out.", name, "unsupported_parameter")
    for name in ("model", "messages"):
        if name not in fields:
            raise RequestError(f"you must provide a {name} parameter", name, "missing_required_parameter")


def _is_zero(value, neutral) -> bool:
    return neutral == 0 and isinstance(value, float) and value == 0


def _wrong(name: str, expected: str) -> RequestError:
    return RequestError(f"Invalid value for '{name}': it must be {expected}.", name, "invalid_value")


def _typed(fields: dict, name: str, kind: type, expected: str):
    if not isinstance(fields[name], kind):
        raise _wrong(name, expected)
    return fields[name]


def _boolean(fields: dict, name: str, default: bool | None, param: str | None = None) -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(param or name, "true or false")
    return default if value is None else value


def _number(fields: dict, name: str, default: float, least: float, most: float) -> float:
    value = fields.get(name, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # of NaN, neither is true
        raise _wrong(name, f"a number from {least} to {most}")
    return float(value)


def _integer(fields: dict, name: str, least: int, most: int | None = None) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        raise _wrong(name, f"a whole number from {least} to {most}" if most is not None else f"at least {least}")
    return value


def _max_new_tokens(fields: dict) -> int | None:
    names = ("max_completion_tokens", "max_tokens")
    newer, older = (_integer(fields, name, 1) for name in names)
    if newer is not None and older is not None and newer != older:
        raise RequestError("max_tokens and max_completion_tokens contradict each other: send one.", "max_tokens")
    return older if newer is None else newer


def _stop(fields: dict) -> tuple[str, ...]:
    stop = fields.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    is_valid = isinstance(stop, list) and len(stop) <= MAX_STOP and all(isinstance(s, str) and s for s in stop)
    if not is_valid:
        raise _wrong("stop", f"a string, or a list of up to {MAX_STOP} strings, none of them empty")
    return tuple(stop)


def _top_logprobs(fields: dict) -> int | None:
    number = _integer(fields, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if _boolean(fields, "logprobs", False):
        return number or 0
    if number is not None:
        raise RequestError("top_logprobs needs logprobs: send logprobs=true too.", "top_logprobs", "invalid_value")
    return None


def _include_usage(fields: dict, stream: bool) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise RequestError("stream_options needs stream=true.", "stream_options", "invalid_value")
    if not isinstance(options, dict):
        raise _wrong("stream_options", "an object")
    _check_only(options, "stream_options", {"include_usage", "include_obfuscation"})
    if _boolean(options, "include_obfuscation", False, "stream_options.include_obfuscation"):
        name = "stream_options.include_obfuscation"
        raise RequestError(f"{name} is not supported by this server: leave it out.", name, "unsupported_parameter")
    return _boolean(options, "include_usage", False, "stream_options.include_usage")


def _hd(fields: dict, details: set[bool]) -> bool | None:
    """High definition by `hd`, by `chat_template_kwargs`, or by the `detail` of the images, which may not differ."""
    template = fields.get("chat_template_kwargs", {})
    if not isinstance(template, dict):
        raise _wrong("chat_template_kwargs", "an object")
    _check_only(template, "chat_template_kwargs", {"hd"})
    asked = {_boolean(fields, "hd", None), _boolean(template, "hd", None, "chat_template_kwargs.hd"), *details}
    asked.discard(None)
    if len(asked) > 1:
        message = "hd and the detail of all images must agree: one request is in high definition, or it is not."
        raise RequestError(message, "hd", "invalid_value")
    return asked.pop() if asked else None


def _check_only(fields: dict, name: str, allowed: set[str]) -> None:
    unknown = [key for key, value in fields.items() if key not in allowed and value is not None]
    if unknown:
        param = _shown(f"{name}.{unknown[0]}")
        raise RequestError(f"{param} is not supported by this server: leave it out.", param, "unsupported_parameter")


def _messages(fields: dict) -> tuple[list[dict], list[str], set[bool]]:
    """The conversation for the processor, the URLs of its images, and what their `detail` says of high definition."""
    messages = fields["messages"]
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of at least one message")
    images: list[str] = []
    details: set[bool] = set()
    conversation = [_message(message, f"messages.{i}", images, details) for i, message in enumerate(messages)]
    if conversation[-1]["role"] != "user":
        raise RequestError("The last message must be the user's, who is answered.", "messages", "invalid_value")
    return conversation, images, details


def _message(message, name: str, images: list[str], details: set[bool]) -> dict:
    if not isinstance(message, dict):
        raise _wrong(name, "an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise RequestError(
            f"Invalid value for '{name}.role': it must be system, developer, user or assistant.",
            f"{name}.role",
            "invalid_value",
        )
    _check_only(message, name, {"role", "content"})
    content = message.get("content")
    if isinstance(content, str):
        return {"role": ROLES[role], "content": content}
    if not isinstance(content, list) or not content:
        raise _wrong(f"{name}.content", "a string, or a list of at least one part")
    parts: list[Callable | dict] = []
    for index, part in enumerate(content):
        part_name = f"{name}.content.{index}"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            parts.append(_text_part(part, part_name))
        elif kind == "image_url" and role == "user":
            parts.append(_image_part(part, part_name, images, details))
        elif kind == "image_url":
            raise RequestError("Only messages of the user may have images.", part_name, "invalid_value")
        else:
            raise _wrong(part_name, "a part of type text or image_url")
    return {"role": ROLES[role], "content": parts}


def _text_part(part: dict, name: str) -> dict:
    _check_only(part, name, {"type", "text"})
    if not isinstance(part.get("text"), str):
        raise _wrong(f"{name}.text", "a string")
    return {"type": "text", "text": part["text"]}


def _image_part(part: dict, name: str, images: list[str], details: set[bool]) -> dict:
    _check_only(part, name, {"type", "image_url"})
    image = part.get("image_url")
    if not isinstance(image, dict) or not isinstance(image.get("url"), str):
        raise _wrong(f"{name}.image_url", "an object with the url of an image")
    _check_only(image, f"{name}.image_url", {"url", "detail"})
    detail = image.get("detail") or "auto"
    if not isinstance(detail, str) or detail not in HD_OF_DETAIL:
        raise _wrong(f"{name}.image_url.detail", "auto, low (not in high definition) or high (in high definition)")
    if HD_OF_DETAIL[detail] is not None:
        details.add(HD_OF_DETAIL[detail])
    images.append(image["url"])
    return {"type": "image"}


def _shown(name: str) -> str:
    """A client's word in an error: not too long, and with nothing in it that a terminal would obey."""
    name = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}..."
    return name if name.isprintable() else ascii(name)[1:-1]
