# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""An answer, what it cost, and what the model looked at for it."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image


# From low to high: dark blue, violet, orange, light yellow.
COLOURS = np.array([(13, 8, 135), (156, 23, 158), (237, 121, 83), (240, 249, 33)])
OPACITY = 0.85  # of the colours where the weight is highest


@dataclass(frozen=True)
class ImageAttention:
    """
    What the model looked at in one image. High definition's tiles are laid where they were cut out.

    Args:
        image (`PIL.Image.Image`): The image, upright, in RGB.
        query_tokens (`np.ndarray` of shape `(height, width)`): Attention weight of each pixel, mean over heads and
            query tokens of the question; 0 everywhere in a model without query tokens.
        pooling (`np.ndarray` of shape `(height, width)`): Share of each pixel in the visual token of its region; 0
            everywhere in a model that does not pool.
    """

    image: Image.Image
    query_tokens: np.ndarray = field(repr=False)
    pooling: np.ndarray = field(repr=False)

    def density(self, kind: str = "query_tokens") -> np.ndarray:
        """
        The weights `(height, width)` times the number of pixels, so that images of any sizes can be compared.

        Args:
            kind (`str`, *optional*, defaults to `"query_tokens"`): `"query_tokens"` or `"pooling"`.

        Raises:
            ValueError: If `kind` is neither.
        """
        if kind not in ("query_tokens", "pooling"):
            raise ValueError(f"kind is {kind!r}: pass 'query_tokens' or 'pooling'.")
        weights = self.query_tokens if kind == "query_tokens" else self.pooling
        return weights * weights.size

    def overlay(self, kind: str = "query_tokens", highest: float | None = None) -> Image.Image:
        """
        The image in grey under the weights in colour.

        Args:
            kind (`str`, *optional*, defaults to `"query_tokens"`): `"query_tokens"` or `"pooling"`.
            highest (`float`, *optional*): The density that gets the brightest colour; the image's own highest if
                unset.

        Raises:
            ValueError: If `kind` is neither.
        """
        density = self.density(kind)
        highest = float(density.max()) if highest is None else highest
        share = (density / max(highest, np.finfo(np.float32).tiny)).clip(0, 1)
        steps = np.linspace(0, 1, len(COLOURS))
        colours = np.stack([np.interp(share, steps, channel) for channel in COLOURS.T], axis=-1)
        layer = Image.fromarray(colours.astype(np.uint8))
        opacity = Image.fromarray((share * OPACITY * 255).astype(np.uint8))
        return Image.composite(layer, self.image.convert("L").convert("RGB"), opacity)


@dataclass(frozen=True)
class Answer:
    """
    An answer. `str(answer)` is its text.

    Args:
        text (`str`): The text, without the space that answers begin with.
        finish_reason (`str`): `"stop"` if the model or a stop string ended it, `"length"` if a limit did, and
            `"interrupted"` if the reader did.
        num_tokens (`int`): Tokens of the answer, its end included. In a batch, those of this answer alone.
        prompt_tokens (`int`): Positions of the decoder's sequence before the answer, padding excluded. In a chat,
            those of all turns before it.
        visual_tokens (`int`): Those of them that images take.
        seconds_to_first_token (`float`): From the question and its opened images to the first token.
        tokens_per_second (`float`): Tokens after the first, per second; of a one-token answer, that token's.
        attention (`list[ImageAttention]`, *optional*): One for each image of the question, or of the chat up to it, if
            it was asked for.
    """

    text: str
    finish_reason: str
    num_tokens: int
    prompt_tokens: int
    visual_tokens: int
    seconds_to_first_token: float
    tokens_per_second: float
    attention: list[ImageAttention] | None = None

    def __str__(self) -> str:
        return self.text
