# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The parts of an image: texts in a few fonts, handwritten digits, and shapes.

Only fonts that come with Pillow and matplotlib are used, so that every machine draws the same letters.
"""

import math
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits


SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
FACES = 3  # fonts
OVERSAMPLING = 4  # shapes are drawn so many times larger, then reduced: their edges become smooth


@lru_cache(maxsize=256)
def font(face: int, size: int) -> ImageFont.FreeTypeFont:
    """One of the `FACES` fonts; `size` is in pixels."""
    if face == 0:
        return ImageFont.load_default(size)
    name = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")[face - 1]
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


@lru_cache(maxsize=8192)
def fit_text(text: str, face: int, size: int, limit: int) -> tuple[int, int, int]:
    """The largest font size up to `size` at which a text is at most `limit` pixels wide, and its width and height."""
    while True:
        left, top, right, bottom = font(face, size).getbbox(text)
        if right - left <= limit:
            return size, math.ceil(right - left), math.ceil(bottom - top)
        size -= 1


@lru_cache
def handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: images of shape (1797, 8, 8) with values from 0 to 16, and the digits that they show."""
    digits = load_digits()
    return digits.images, digits.target


def digit_mask(index: int, width: int, height: int) -> Image.Image:
    """A handwritten digit as a mask."""
    pixels = (handwritten_digits()[0][index] * (255 / 16)).astype(np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@lru_cache(maxsize=512)
def shape_mask(shape: str, side: int) -> Image.Image:
    """A shape as an antialiased square mask of `side` pixels."""
    full = side * OVERSAMPLING
    mask = Image.new("L", (full, full))
    draw = ImageDraw.Draw(mask)
    if shape in ("circle", "ring"):
        draw.ellipse((0, 0, full - 1, full - 1), fill=255)
        if shape == "ring":
            inset = round(full * 0.27)
            draw.ellipse((inset, inset, full - 1 - inset, full - 1 - inset), fill=0)
    elif shape == "square":
        draw.rectangle((0, 0, full - 1, full - 1), fill=255)
    elif shape == "triangle":
        draw.polygon([(full / 2, 0), (full - 1, full - 1), (0, full - 1)], fill=255)
    elif shape == "cross":
        arm = round(full * 0.33)
        draw.rectangle((arm, 0, full - 1 - arm, full - 1), fill=255)
        draw.rectangle((0, arm, full - 1, full - 1 - arm), fill=255)
    elif shape == "star":
        draw.polygon(_star_corners(full), fill=255)
    else:
        raise ValueError(f"unknown shape {shape!r}; choose one of {', '.join(SHAPES)}")
    return mask.resize((side, side), Image.Resampling.BOX)


def _star_corners(side: int) -> list[tuple[float, float]]:
    corners = []
    for corner in range(10):
        radius = side / 2 * (1 if corner % 2 == 0 else 0.42)
        angle = math.pi * (corner / 5 - 0.5)
        corners.append((side / 2 + radius * math.cos(angle), side / 2 + radius * math.sin(angle)))
    return corners
