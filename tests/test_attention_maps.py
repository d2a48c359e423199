# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Weights of patches land on the pixels that the patches were made of."""

import numpy as np
import pytest
import torch
from PIL import Image
from samples import make_config, prepare, user

from flashsloth import FlashSlothImageProcessor
from flashsloth.attention_maps import over_image, pooled_patches
from flashsloth.modeling_flashsloth import SpatialPooling
from flashsloth.tiny.evaluate import CHECKPOINTS, load
from flashsloth.tiny.scenes import CANVAS, make_scene, render


CUT = make_config(vision_config={"image_size": 26})  # six patches of 4 pixels, and 2 pixels that no patch covers


@pytest.fixture(scope="module")
def shipped():
    """Model and processor of the shipped checkpoint."""
    return load(CHECKPOINTS / "flashsloth-tiny")


def brightness(image, config, hd):
    """Weights that any image has: the mean brightness of each patch of its views, (V, P), adding up to 1."""
    size, patch, grid = config.vision_config.image_size, config.vision_config.patch_size, config.grid_size
    processor = FlashSlothImageProcessor(size={"height": size, "width": size}, hd=hd, do_normalize=False, fill_color=0)
    views = processor(image, return_tensors="pt")["pixel_values"].mean(1)[:, : grid * patch, : grid * patch]
    weights = views.unflatten(-1, (grid, patch)).unflatten(-3, (grid, patch)).mean((-3, -1)).flatten(1)
    return weights / weights.sum()


@pytest.mark.parametrize("config", [make_config(), CUT], ids=["whole patches", "cut"])
@pytest.mark.parametrize("hd", [False, True], ids=["standard", "hd"])
@pytest.mark.parametrize("size", [(240, 240), (480, 200), (150, 400)], ids=["square", "wide", "tall"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_bright_spot_is_found_where_it_is(config, hd, size, mode):
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    left, top = round(0.6 * width), round(0.15 * height)
    pixels[top : top + 40, left : left + 40] = 255
    density = over_image(brightness(Image.fromarray(pixels), config, hd), size, config, mode=mode)
    assert density.shape == (height, width)
    assert density.sum() == pytest.approx(1, abs=0.05)
    x = (density.sum(0) * (torch.arange(width) + 0.5)).sum() / density.sum()
    y = (density.sum(1) * (torch.arange(height) + 0.5)).sum() / density.sum()
    # within a quarter of a patch of the standard view
    assert abs(x - (left + 20)) < 0.25 * width / config.grid_size
    assert abs(y - (top + 20)) < 0.25 * height / config.grid_size


def test_pixels_that_no_patch_covers_have_no_weight():
    weights = torch.full((1, CUT.num_patches), 1 / CUT.num_patches)
    density = over_image(weights, (52, 52), CUT, mode="nearest")
    assert torch.all(density[:48, :48] > 0)
    assert density[48:].sum() == density[:, 48:].sum() == 0


def test_tiles_are_those_of_the_grid():
    config = make_config()
    weights = torch.zeros(5, config.num_patches)
    weights[2] = 1 / config.num_patches  # the upper right tile
    density = over_image(weights, (48, 48), config, mode="nearest")
    assert density[:24, 24:].sum() == pytest.approx(1)
    assert density.sum() == pytest.approx(1)


def test_pooling_weights_return_to_their_patches():
    config = make_config()
    patches = torch.randn(1, config.num_patches, config.vision_config.hidden_size)
    torch.manual_seed(0)
    visual_tokens, weights = SpatialPooling(config)(patches)
    weighted = pooled_patches(weights)[..., None] * patches
    grid, size = config.grid_size, config.pooling_size
    side = grid // size
    regions = weighted.view(1, side, size, side, size, -1).sum((2, 4)).flatten(1, 2)
    torch.testing.assert_close(regions, visual_tokens)


@pytest.mark.parametrize("shape", [(2, 36), (1, 35), (4, 1, 36)])
def test_weights_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"1 or 5 views of 36 patches"):
        over_image(torch.zeros(shape), (40, 30), make_config())


ASKED = {
    "shape": ("What colour is the {}?",),
    "word": ("What word is written here?", "Which word do you see?", "Read the word."),
    "number": ("What number is written here?", "Read the number."),
    "digit": ("Which digit is written by hand?", "Read the handwritten digit."),
}


@pytest.mark.parametrize("kind", ASKED)
def test_the_shipped_checkpoint_attends_to_what_it_is_asked_about(shipped, kind):
    """In held-out images, to the one thing of its kind, in every form of the question."""
    model, processor = shipped
    asked = []
    for scene in (make_scene("heldout", "ordinary", index) for index in range(60)):
        items = scene.of_kind(kind)
        if len(items) == 1:
            asked += [(scene, items[0], question.format(items[0].shape)) for question in ASKED[kind]]
    inputs = prepare(processor, [[user(render(scene), question)] for scene, _, question in asked])
    with torch.no_grad():
        attentions = model(**inputs, output_query_attentions=True).query_attentions
    shares, found = [], 0
    for (scene, item, _), weights in zip(asked, attentions.mean(1).sum(1), strict=True):  # zero beside query tokens
        density = over_image(weights / weights.sum(), (CANVAS, CANVAS), model.config)
        share = {other: density[slice(*other.box[1::2]), slice(*other.box[::2])].sum().item() for other in scene.items}
        shares.append(share[item])
        found += share[item] == max(share.values())
    assert len(asked) >= 10
    assert np.mean(shares) > 0.2  # an item fills 3 to 8 % of the image
    assert found / len(asked) > 0.8
