# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The generated images: repeatable, disjoint between splits, and drawn as they are described."""

import hashlib

import numpy as np

from flashsloth.tiny.scenes import (
    CANVAS,
    HELDOUT_PAIRS,
    SPLITS,
    STYLES,
    TILE,
    digits_of,
    make_scene,
    render,
)


def scenes(split, count=60):
    """The first scenes of every style."""
    return [make_scene(split, style, index) for style in STYLES for index in range(count)]


def test_scenes_are_those_of_the_shipped_checkpoints():
    """Another image would make other checkpoints from the same recipe."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for scene in scenes(split, 8):
            digest.update(repr(scene).encode())
    assert digest.hexdigest()[:16] == "68595ecebb74bed9"


def test_a_scene_is_a_function_of_split_style_and_index():
    for style in STYLES:
        assert make_scene("train", style, 5) == make_scene("train", style, 5)
        assert make_scene("train", style, 5) != make_scene("train", style, 6)
    assert np.array_equal(render(make_scene("train", "dense", 5)), render(make_scene("train", "dense", 5)))


def test_splits_share_no_image_and_no_handwriting():
    digests = [
        {hashlib.sha256(render(scene).tobytes()).hexdigest() for scene in scenes(split, 40)} for split in SPLITS
    ]
    assert all(len(digest) == 40 * len(STYLES) for digest in digests)
    assert not set.union(*(first & second for first in digests for second in digests if first is not second))
    owned = [{index for indices in digits_of(split).values() for index in indices} for split in SPLITS]
    assert sum(map(len, owned)) == len(set.union(*owned)) == 1797


def test_some_pairs_occur_in_the_heldout_split_only():
    def pairs(split):
        return {(item.color, item.shape) for scene in scenes(split, 150) for item in scene.of_kind("shape")}

    for split in ("train", "validation"):
        assert len(pairs(split)) == 44 and not pairs(split) & set(HELDOUT_PAIRS)
    assert set(HELDOUT_PAIRS) <= pairs("heldout")


def test_items_stay_inside_their_cells_and_small_text_inside_a_tile():
    for scene in scenes("train"):
        cell = CANVAS // scene.grid
        assert len({(item.column, item.row) for item in scene.items}) == len(scene.items)
        for item in scene.items:
            left, top, right, bottom = item.box
            assert item.column * cell <= left < right <= (item.column + 1) * cell
            assert item.row * cell <= top < bottom <= (item.row + 1) * cell
            if scene.grid == 4:
                assert left // TILE == (right - 1) // TILE and top // TILE == (bottom - 1) // TILE


def test_items_are_drawn_in_their_boxes_only():
    for scene in scenes("train", 20):
        drawn = np.abs(np.asarray(render(scene)).astype(int) - scene.background).max(-1) > 12
        for item in scene.items:
            left, top, right, bottom = item.box
            assert drawn[top:bottom, left:right].any()
            drawn[top:bottom, left:right] = False
        assert not drawn.any()
