# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Greedy answers of a vision encoder and a decoder with a cache of its own, in the loop that an app has."""

import time
from collections.abc import Callable

import torch

from flashsloth.export.cached_decoder import without_images


class ProgramLoop:
    """
    A conversation.

    Args:
        vision_encoder (`Callable`), decoder (`Callable`): The two methods of an exported program, from tensors to a
            list of tensors.
        config ([`FlashSlothConfig`]): The model's config.

    Attributes:
        answer_logits (`list[torch.Tensor]`): Of each token of all answers, of shape `(vocabulary,)`.
        token_seconds (`list[float]`): What each call of the decoder for one token took.
    """

    def __init__(self, vision_encoder: Callable, decoder: Callable, config):
        self.vision_encoder, self.decoder, self.config = vision_encoder, decoder, config
        self.position, self.images, self.answer_logits, self.token_seconds = 0, None, [], []

    def ask(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, most: int = 12) -> list[int]:
        """The tokens of an answer; a following call goes on where it ended."""
        if pixel_values is not None:
            encoded = [self.vision_encoder(view[None]) for view in pixel_values]
            features, patches = (torch.cat([parts[n] for parts in encoded]) for n in (0, 1))
            views = (features[None], torch.ones(1, len(encoded), dtype=torch.long), patches.flatten(0, 1)[None])
            if self.images is not None:
                views = [torch.cat(pair, dim=1) for pair in zip(self.images, views, strict=True)]
            self.images = views
        images, answer = self.images or without_images(self.config), []
        while len(answer) < most:
            start = time.perf_counter()
            (logits,) = self.decoder(input_ids, torch.tensor([self.position]), *images)
            if input_ids.shape[1] == 1:
                self.token_seconds.append(time.perf_counter() - start)
            self.answer_logits.append(logits[0, -1].clone())
            self.position += input_ids.shape[1]
            images = without_images(self.config)
            allowed = self.answer_logits[-1].clone()
            allowed[self.config.placeholder_token_ids] = -torch.inf
            answer.append(int(allowed.argmax()))
            if answer[-1] in self.config.eos_token_ids:
                break
            input_ids = torch.tensor([[answer[-1]]])
        return answer
