# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
From a request to the prompt that the model takes: images are read within the server's limits, and the conversation is
tokenized. This runs in threads of its own, beside the model's.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from flashsloth.image_reading_flashsloth import WEB, ImageError, read_image
from flashsloth.processing_flashsloth import IMAGE_TOKEN, ConversationError
from flashsloth.serve.protocol import ChatRequest, RequestError
from flashsloth.serve.row import Prompt


DEFAULT_NEW_TOKENS = 256  # as everywhere in this library
TOO_LONG = "context_length_exceeded"
DATA = "data:image/"


@dataclass(frozen=True)
class Limits:
    """
    What a request may ask for.

    Args:
        body_bytes (`int`): Longest body.
        images (`int`): Most images of a request, those of earlier turns included.
        image_pixels (`int`): Most pixels of one image; Pillow has a limit of its own.
        new_tokens (`int`): Longest answer.
        answers (`int`): Most answers to one request.
        waiting (`int`): Most requests that wait while others are answered.
        image_urls (`bool`): Whether images are fetched from http(s) URLs.
        private_addresses (`bool`): Whether those may lead to addresses that are not public.
    """

    body_bytes: int
    images: int
    image_pixels: int
    new_tokens: int
    answers: int
    waiting: int
    image_urls: bool = False
    private_addresses: bool = False


def is_web(url: str) -> bool:
    """Whether a URL is a web address."""
    return url[: len(WEB[-1])].lower().startswith(WEB)


def check_limits(request: ChatRequest, limits: Limits) -> None:
    """
    Raises:
        RequestError: If a request asks for too much, or for a kind of image that is not read here.
    """
    if len(request.images) > limits.images:
        message = f"The messages hold {len(request.images)} images, but at most {limits.images} are allowed."
        raise RequestError(message, "messages", "too_many_images")
    if request.n > limits.answers:
        raise RequestError(f"Invalid value for 'n': at most {limits.answers} answers.", "n", "invalid_value")
    if (request.max_new_tokens or 0) > limits.new_tokens:
        message = f"An answer of {request.max_new_tokens} tokens is asked for, but at most {limits.new_tokens} are "
        raise RequestError(f"{message}allowed.", "max_tokens", "invalid_value")
    for index, url in enumerate(request.images):
        if is_web(url) and not limits.image_urls:
            message = (
                f"Image {index} is a web address, which this server does not fetch: send the image as a data URL."
            )
            raise RequestError(message, "messages", "image_url_not_allowed")
        if not is_web(url) and url[: len(DATA)].lower() != DATA:
            message = f"Image {index} is no data URL (data:image/png;base64,...)"
            raise RequestError(f"{message}{' nor a web address' * limits.image_urls}.", "messages", "invalid_image")


def prepare(request: ChatRequest, processor, limits: Limits, max_positions: int) -> tuple[Prompt, int]:
    """
    The prompt of a request, and the length of its longest answer in tokens.

    Args:
        request ([`ChatRequest`]): Within the limits.
        processor: The model's processor.
        limits ([`Limits`]): Those of the server.
        max_positions (`int`): Tokens that prompt and answer may have together.

    Raises:
        RequestError: If an image cannot be read, the turns are in a wrong order, or the prompt is too long.
    """
    # One after the other: a photo takes a hundred times the memory of its views.
    views = []
    for index, url in enumerate(request.images):
        image = _read(url, f"Image {index}", limits)
        views.append(processor.image_processor(image, hd=request.hd, return_tensors="np")["pixel_values"])
    messages = [{**message, "content": _images_first(message["content"])} for message in request.messages]
    try:
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    except ConversationError as error:
        raise RequestError(str(error), "messages", "invalid_value") from error
    image_tokens = IMAGE_TOKEN * processor.num_image_tokens(request.hd)
    (prompt,), _ = processor.get_text_with_replacements([prompt], [image_tokens] * len(views))
    inputs = processor.tokenizer(prompt, add_special_tokens=False, return_tensors="np", verbose=False)
    input_ids = inputs["input_ids"][0]
    max_new_tokens = _max_new_tokens(len(input_ids), request.max_new_tokens, limits, max_positions)
    return Prompt(input_ids, np.concatenate(views) if views else None), max_new_tokens


def _max_new_tokens(num_prompt_tokens: int, asked: int | None, limits: Limits, max_positions: int) -> int:
    room = max_positions - num_prompt_tokens
    if asked is None and room > 0:
        return min(DEFAULT_NEW_TOKENS, limits.new_tokens, room)
    if asked is None or asked > room:
        message = (
            f"The model has {max_positions} positions: the prompt takes {num_prompt_tokens} of them, and the answer "
        )
        raise RequestError(f"{message}may take {asked or 1}. Shorten either.", "messages", TOO_LONG)
    return asked


def _images_first(content):
    """
    A message's content, in which images that are behind all the text come before it: OpenAI's examples have them
    there, and the model learned from questions that follow their images.
    """
    if isinstance(content, str):
        return content
    kinds = [part["type"] for part in content]
    is_behind = kinds == sorted(kinds, reverse=True)  # all the text, then the images
    return sorted(content, key=lambda part: part["type"]) if is_behind else content


def _read(url: str, name: str, limits: Limits) -> Image.Image:
    local_sources = is_web(url) and limits.private_addresses
    try:
        return read_image(url, name, local_sources=local_sources, max_pixels=limits.image_pixels)
    except ImageError as error:
        raise RequestError(str(error), "messages", "invalid_image") from error
