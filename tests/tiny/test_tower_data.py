# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The regions and phrases that the vision tower learns from."""

import numpy as np
import pytest

from flashsloth.tiny.scenes import make_scene
from flashsloth.tiny.tower_data import (
    PHRASE_LIST,
    SIDE,
    coverage,
    phrases_of,
    region_weights,
    tile_view,
    whole_view,
)


def test_coverage_is_the_covered_share_of_each_patch():
    cover = coverage((4, 8, 16, 20))
    assert cover.sum() * 64 == pytest.approx(12 * 12)
    assert cover[1, 0] == 0.5 and cover[1, 1] == 1 and cover[2, 1] == 0.5 and cover[0].sum() == 0


def test_region_weights_are_means_over_the_box_and_over_its_fullest_block():
    whole, block = region_weights((10, 10, 60, 30)).reshape(2, SIDE, SIDE)
    assert whole.sum() == pytest.approx(1) and block.sum() == pytest.approx(1)
    rows, columns = np.nonzero(block)
    assert len(set(rows // 3)) == len(set(columns // 3)) == 1


def test_phrases_are_known_and_those_of_a_tile_have_neither_place_nor_size():
    for index in range(50):
        scene = make_scene("train", "ordinary", index)
        for item in scene.items:
            assert set(phrases_of(item, in_tile=True)) < set(phrases_of(item, in_tile=False)) <= set(PHRASE_LIST)


def test_views_keep_the_items_that_are_visible():
    scene = make_scene("train", "small_dense", 0)
    assert len(whole_view(scene).items) == 16
    tiles = [tile_view(scene, column, row) for row in range(2) for column in range(2)]
    assert [len(tile.items) for tile in tiles] == [4] * 4
    assert all(0 <= edge <= 96 for tile in tiles for box in tile.boxes for edge in box)
