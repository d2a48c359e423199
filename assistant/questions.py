# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What is asked: images of any kind that the processor takes, opened before anything is computed, and a question."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from flashsloth.image_reading_flashsloth import ImageError, is_address, read_image, without_secrets


MAX_NAME = 100  # characters of a name that are shown


def read_images(images) -> list[Image.Image]:
    """
    Opens the images of one question.

    Args:
        images: `None`, one image or a list of them: files, URLs, PIL images, arrays, tensors, bytes or open files.

    Raises:
        ImageError: If one cannot be used; the message names it, without the secrets of an address.
    """
    if images is None:
        return []
    if not isinstance(images, (list, tuple)):
        return [_read(images, "The image")]
    return [_read(image, "The image" if len(images) == 1 else f"Image {index}") for index, image in enumerate(images)]


def images_by_question(images, count: int) -> Sequence:
    """
    The images of each question of a batch.

    Raises:
        ValueError: If `images` is neither `None` nor a list with an entry for each question.
    """
    if images is None:
        return [None] * count
    if not isinstance(images, (list, tuple)) or len(images) != count:
        given = f"{len(images)} entries" if isinstance(images, (list, tuple)) else type(images).__name__
        raise ValueError(
            f"images is {given} for {count} questions: pass a list with an entry for each question, which is an "
            "image, a list of images, or None."
        )
    return images


def user_message(question: str, images: list) -> dict:
    """
    A question and its images as a message.

    Raises:
        ValueError: If the question is no text or empty.
    """
    if not isinstance(question, str):
        raise ValueError(f"The question is {question!r}: pass text.")
    if not question.strip():
        raise ValueError("The question is empty: ask something.")
    parts = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}


def system_messages(system: str | None) -> list[dict]:
    """A system prompt as the first messages of a conversation."""
    return [] if system is None else [{"role": "system", "content": system}]


def _read(source, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        source = source.copy()  # its owner may draw on it while it is asked about
    if not isinstance(source, (str, Path)):
        return read_image(source, name)
    address = str(source)
    shown = without_secrets(address)
    file = os.path.expanduser(address)
    if not is_address(address) and not os.path.isfile(file):
        problem = "is a folder" if os.path.isdir(file) else "does not exist"
        raise ImageError(f"The image '{shown}' {problem}: give an image file or a URL.")
    shown = shown if len(shown) <= MAX_NAME else f"{shown[:MAX_NAME]}..."
    return read_image(address, f"The image '{shown}'")
