# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Prompts for the scheduler of the server, and clients that wait for its answers."""

import queue

import torch

from flashsloth.serve.row import Piece, Prompt, Row
from flashsloth.serve.scheduler import Scheduler


SECONDS = 60  # until a test gives up


def prompt_of(processor, chat, **options) -> Prompt:
    """The prompt of a conversation."""
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np", **options
    )
    return Prompt(inputs["input_ids"][0], inputs.get("pixel_values"))


def answer_alone(model, processor, prompt: Prompt, max_new_tokens: int) -> str:
    """What `generate` answers to one prompt."""
    images = {} if prompt.pixel_values is None else {"pixel_values": torch.as_tensor(prompt.pixel_values)}
    ids = torch.as_tensor(prompt.input_ids[None])
    output = model.generate(ids, **images, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


class Client:
    """Gets the pieces of one row."""

    def __init__(self, scheduler: Scheduler, prompt: Prompt, max_new_tokens: int, **options):
        self.pieces: queue.Queue[Piece] = queue.Queue()
        self.row = Row(prompt, max_new_tokens, self.pieces.put, **options)
        scheduler.submit([self.row])

    def answer(self) -> tuple[str, Piece]:
        """The text, and the last piece."""
        text = ""
        while True:
            piece = self.pieces.get(timeout=SECONDS)
            text += piece.text
            if piece.finish_reason or piece.error:
                return text, piece

    def wait_for_tokens(self, number: int) -> None:
        while self.pieces.get(timeout=SECONDS).num_tokens < number:
            pass
