# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""An answer is its text; an overlay shows where the weights are."""

import numpy as np
from model_folders import error_of
from PIL import Image

from flashsloth.assistant.answer import Answer, ImageAttention


def test_an_answer_is_its_text():
    answer = Answer("Red.", "stop", 3, 40, 9, 0.5, 20.0)
    assert f"{answer}" == str(answer) == "Red."
    assert answer.attention is None


def test_an_overlay_colours_what_is_looked_at_and_leaves_the_rest_grey():
    image = Image.new("RGB", (6, 4), (200, 30, 60))
    weights = np.zeros((4, 6), np.float32)
    weights[1, 2] = 0.25
    attention = ImageAttention(image, weights, np.zeros((4, 6), np.float32))
    grey = np.asarray(image.convert("L").convert("RGB"))
    overlay = np.asarray(attention.overlay())
    assert (overlay[weights == 0] == grey[weights == 0]).all()
    red, green, blue = overlay[1, 2].astype(int)
    assert red > 180 and green > 180 and blue < 80  # light yellow, where the weight is highest
    assert np.array_equal(np.asarray(attention.overlay("pooling")), grey)  # no weights at all
    assert "kind is 'heads': pass 'query_tokens' or 'pooling'" in error_of(attention.overlay, "heads")
    assert "array" not in repr(attention)


def test_images_of_any_size_share_a_scale():
    small, large = np.full((2, 2), 0.1, np.float32), np.full((20, 20), 0.001, np.float32)
    first, second = (ImageAttention(Image.new("RGB", w.shape), w, w) for w in (small, large))
    assert np.allclose(first.density().max(), second.density())  # as much weight on as large a part of the image
    highest = float(first.density().max())
    brightest = np.asarray(first.overlay())[0, 0]
    assert (np.asarray(second.overlay("pooling", highest))[0, 0] == brightest).all()
    assert (np.asarray(second.overlay("pooling", 4 * highest))[0, 0] < brightest).any()
