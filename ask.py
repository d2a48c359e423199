# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""One question to one model, with the answer streamed and timed: what `flashsloth ask` does."""

import sys
import time
from dataclasses import dataclass

from transformers import TextStreamer


@dataclass
class Answer:
    """
    An answer and its cost.

    Args:
        answer (`str`): The text.
        seconds_to_first_token (`float`): From the question and the unread images to the first token of the answer.
        tokens_per_second (`float`): Tokens after the first, per second; of a one-token answer, that token's.
        visual_tokens (`int`): Positions of the decoder's sequence that the images take.
    """

    answer: str
    seconds_to_first_token: float
    tokens_per_second: float
    visual_tokens: int


class TimedStreamer(TextStreamer):
    """Keeps the time at which each token arrives; writes the answer to standard output if `echo` is set."""

    def __init__(self, tokenizer, echo: bool):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.echo = echo
        self.text = ""
        self.token_times: list[float] = []

    def put(self, value):
        if not self.next_tokens_are_prompt:
            self.token_times.append(time.perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False):
        text = text if self.text else text.lstrip()
        self.text += text
        if self.echo:
            sys.stdout.write(text + ("\n" if stream_end else ""))
            sys.stdout.flush()


def ask(model, processor, question: str, images=(), hd: bool | None = None, max_new_tokens: int = 256, echo=False):
    """
    Asks a question about any number of images.

    Args:
        model: A FlashSloth model that generates.
        processor: Its processor.
        question (`str`): The question.
        images (`Sequence[str]`, *optional*): Files or URLs.
        hd (`bool`, *optional*): Whether images are processed in high definition; the checkpoint's default if unset.
        max_new_tokens (`int`, *optional*, defaults to 256): The longest answer.
        echo (`bool`, *optional*, defaults to `False`): Write the answer to standard output while it is made.

    Returns:
        [`Answer`]: The answer and its timing.

    Raises:
        ValueError: If an image cannot be read, or if the prompt is too long.
    """
    content = [{"type": "image", "url": image} for image in images] + [{"type": "text", "text": question}]
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
