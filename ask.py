# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""One question to one model, with the answer streamed and timed: what `flashsloth ask` does."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlparse
from urllib.request import url2pathname

from PIL import Image
from transformers import TextStreamer

from flashsloth.image_reading_flashsloth import ImageError, read_image, without_secrets


FILE_URL = "file://"
NOT_A_FILE = ("http://", "https://", "data:")  # how the names of images begin that are no files
MAX_NAME = 100  # characters of a name that are shown


@dataclass
class Answer:
    """
    An answer and its cost.

    Args:
        answer (`str`): The text.
        seconds_to_first_token (`float`): From the question and the images to the first token of the answer. The images
            are unread if they were given as files or URLs.
        tokens_per_second (`float`): Tokens after the first, per second; of a one-token answer, that token's.
        visual_tokens (`int`): Positions of the decoder's sequence that the images take.
    """

    answer: str
    seconds_to_first_token: float
    tokens_per_second: float
    visual_tokens: int


class TimedStreamer(TextStreamer):
    """Keeps the time at which each token arrives; writes the answer to standard output if `echo` is set.
    "Answer:" is put before its first words, on standard error."""

    def __init__(self, tokenizer, echo: bool):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.echo = echo
        self.text = ""
        self.has_begun = False
        self.token_times: list[float] = []

    def put(self, value):
        if not self.next_tokens_are_prompt:
            self.token_times.append(time.perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False):
        text = text if self.text else text.lstrip()
        if self.echo and (text or stream_end) and not self.has_begun:
            self.has_begun = True
            sys.stderr.write("Answer:\n")
        self.text += text
        if self.echo:
            sys.stdout.write(text + ("\n" if stream_end else ""))
            sys.stdout.flush()


def read_images(names: Sequence[str]) -> list[Image.Image]:
    """
    Opens images before a model is loaded, which takes longer than to find that a name is mistyped.

    Args:
        names (`Sequence[str]`): Files or URLs, which may be those of files (`file://`).

    Raises:
        ImageError: If one cannot be used; the message names it, without the secrets of an address.
    """
    return [_read(url2pathname(urlparse(name).path) if name.startswith(FILE_URL) else name) for name in names]


def _read(name: str) -> Image.Image:
    shown = without_secrets(name)
    if not name.startswith(NOT_A_FILE) and not os.path.isfile(name):
        problem = "is a folder" if os.path.isdir(name) else "does not exist"
        raise ImageError(f"The image '{shown}' {problem}: give an image file or a URL.")
    shown = shown if len(shown) <= MAX_NAME else f"{shown[:MAX_NAME]}..."
    return read_image(name, f"The image '{shown}'")


def ask(model, processor, question: str, images=(), hd: bool | None = None, max_new_tokens: int = 256, echo=False):
    """
    Asks a question about any number of images.

    Args:
        model: A FlashSloth model that generates.
        processor: Its processor.
        question (`str`): The question.
        images (`Sequence[str or PIL.Image.Image]`, *optional*): Files, URLs or images.
        hd (`bool`, *optional*): Whether images are processed in high definition; the checkpoint's default if unset.
        max_new_tokens (`int`, *optional*, defaults to 256): The longest answer.
        echo (`bool`, *optional*, defaults to `False`): Write the answer to standard output while it is made.

    Returns:
        [`Answer`]: The answer and its timing.

    Raises:
        ValueError: If an image cannot be read, or if the prompt is too long.
    """
    content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": question}]
    start = time.perf_counter()
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        hd=hd,
    ).to(model.device, dtype=model.dtype)
    streamer = TimedStreamer(processor.tokenizer, echo)
    model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
    first, last = streamer.token_times[0], streamer.token_times[-1]
    decoded = len(streamer.token_times) - 1
    return Answer(
        answer=streamer.text.strip(),
        seconds_to_first_token=round(first - start, 4),
        tokens_per_second=round(decoded / (last - first) if decoded else 1 / (last - start), 2),
        visual_tokens=int((inputs["input_ids"] == model.config.image_token_id).sum()),
    )
