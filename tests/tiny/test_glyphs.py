# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The parts of an image: letters, handwritten digits and shapes are drawn, and no two look alike."""

import itertools
import string

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flashsloth.tiny.glyphs import FACES, SHAPES, digit_mask, fit_text, font, handwritten_digits, shape_mask


CHARACTERS = string.ascii_letters + string.digits


def drawn(text: str, face: int, size: int = 24) -> np.ndarray:
    """The pixels of a text on a canvas."""
    image = Image.new("L", (2 * size * len(text), 2 * size))
    ImageDraw.Draw(image).text((size // 2, size // 4), text, fill=255, font=font(face, size))
    return np.asarray(image)


@pytest.mark.parametrize("face", range(FACES))
def test_every_character_is_drawn_and_distinct(face):
    pixels = {character: drawn(character, face) for character in CHARACTERS}
    assert all(image.max() > 200 for image in pixels.values())
    alike = [pair for pair in itertools.combinations(pixels, 2) if np.array_equal(*(pixels[name] for name in pair))]
    assert not alike
    missing = drawn("\ue000", face)  # what a font draws for a character that it lacks
    assert not any(np.array_equal(image, missing) for image in pixels.values())


def test_the_fonts_differ():
    for first, second in itertools.combinations(range(FACES), 2):
        assert not np.array_equal(drawn("word", first), drawn("word", second))


@pytest.mark.parametrize("face", range(FACES))
def test_a_text_gets_the_largest_size_that_fits(face):
    size, width, height = fit_text("word", face, 40, limit=50)
    assert size < 40 and width <= 50 and 0 < height <= 50
    left, _, right, _ = font(face, size + 1).getbbox("word")
    assert right - left > 50
    assert fit_text("word", face, 12, limit=500)[0] == 12


def test_shapes_fill_their_square_and_are_distinct():
    masks = {shape: np.asarray(shape_mask(shape, 40)) for shape in SHAPES}
    for shape, mask in masks.items():
        assert mask.shape == (40, 40), shape
        assert mask.any(axis=1).sum() > 30 and mask.any(axis=0).sum() > 30, shape
    for first, second in itertools.combinations(SHAPES, 2):
        assert np.abs(masks[first].astype(int) - masks[second]).mean() > 10, (first, second)
    assert masks["ring"][20, 20] == 0 < masks["circle"][20, 20]
    assert 0 < np.mean((masks["circle"] > 0) & (masks["circle"] < 255)) < 0.2  # only its edge is smooth


def test_an_unknown_shape_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown shape 'heart'; choose one of circle, square"):
        shape_mask("heart", 10)


def test_handwritten_digits_are_of_every_kind_and_bright():
    images, digits = handwritten_digits()
    assert images.shape == (1797, 8, 8) and set(digits.tolist()) == set(range(10))
    for index in range(20):
        mask = digit_mask(index, 24, 32)
        assert mask.size == (24, 32) and mask.mode == "L" and np.asarray(mask).max() > 200
