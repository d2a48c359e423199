# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What the tiny vision tower learns from: images with captions, and regions with the phrases that are true of them."""

import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from flashsloth.tiny.questions import describe
from flashsloth.tiny.scenes import (
    CANVAS,
    COLORS,
    GRID,
    HELDOUT_PAIRS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIZES,
    TILE,
    WORDS,
    Item,
    Scene,
    generator,
    make_scene,
    render,
)


IMAGE_SIZE = 96
PATCH_SIZE = 8
SIDE = IMAGE_SIZE // PATCH_SIZE  # patches along a side
POOLING_SIZE = SIDE // GRID  # patches along a side of a pooled region: a visual token stands for one cell of a scene
BLOCK_SIZE = 3  # patches along a side of a block; its mean is a region beside an item's whole box
PHRASE_LENGTH, CAPTION_LENGTH = 6, 16  # tokens


# ----------------------------------------------------------------------------------------------------
# Phrases
# ----------------------------------------------------------------------------------------------------

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
PHRASES: dict[str, tuple[str, ...]] = {
    "kind": ("shape", "word", "number", "digit"),
    "color": tuple(COLORS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "pair": tuple(f"{c} {s}" for c in COLORS for s in SHAPES if (c, s) not in HELDOUT_PAIRS),
    "word": tuple(f"word {word}" for word in WORDS),
    "number": tuple(f"number {number}" for number in NUMBERS),
    "digit": tuple(f"digit {digit}" for digit in range(10)),
    "start": tuple(f"starts {symbol}" for symbol in (*LETTERS, *"123456789")),
    "end": tuple(f"ends {symbol}" for symbol in (*LETTERS, *"0123456789")),
    "place": tuple(f"at the {place}" for place in PLACES),
}
PHRASE_LIST = tuple(phrase for group in PHRASES.values() for phrase in group)
PHRASE_INDEX = {phrase: index for index, phrase in enumerate(PHRASE_LIST)}


def phrases_of(item: Item, in_tile: bool) -> list[str]:
    """All phrases that are true of an item. In a tile neither its place nor its size can be known."""
    phrases = [item.kind]
    if item.kind == "shape":
        phrases += [item.color, item.shape, f"{item.color} {item.shape}"] + ([] if in_tile else [item.size])
    else:
        phrases.append(f"{item.kind} {item.text}")
    if item.kind in ("word", "number"):
        phrases += [f"starts {item.text[0]}", f"ends {item.text[-1]}"]
    return phrases if in_tile else [*phrases, f"at the {item.place}"]


# ----------------------------------------------------------------------------------------------------
# Images with regions
# ----------------------------------------------------------------------------------------------------


def coverage(box: tuple[float, float, float, float]) -> np.ndarray:
    """The share of each patch that a box, in pixels of the view, covers: an array of shape `(SIDE, SIDE)`."""
    edges = np.arange(SIDE) * PATCH_SIZE
    across, down = (
        np.clip(np.minimum(box[i + 2], edges + PATCH_SIZE) - np.maximum(box[i], edges), 0, None) / PATCH_SIZE
        for i in (0, 1)
    )
    return np.outer(down, across).astype(np.float32)


def region_weights(box: tuple[float, float, float, float]) -> np.ndarray:
    """The weights of two means over patches, of shape `(2, SIDE * SIDE)`: a whole box, and the block it fills most."""
    cover = coverage(box)
    blocks = cover.reshape(SIDE // BLOCK_SIZE, BLOCK_SIZE, SIDE // BLOCK_SIZE, BLOCK_SIZE).sum((1, 3))
    row, column = np.unravel_index(blocks.argmax(), blocks.shape)
    fullest = np.zeros_like(cover)
    block = np.s_[row * BLOCK_SIZE : (row + 1) * BLOCK_SIZE, column * BLOCK_SIZE : (column + 1) * BLOCK_SIZE]
    fullest[block] = cover[block]
    return np.stack([weights.ravel() / weights.sum() for weights in (cover, fullest)])


@dataclass
class View:
    """An input of the tower, with the items in it and their boxes in its pixels."""

    pixels: np.ndarray
    items: list[Item]
    boxes: list[tuple[float, float, float, float]]
    in_tile: bool


def whole_view(scene: Scene) -> View:
    """The standard view: the canvas scaled down to the tower's size."""
    image = render(scene).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    scale = IMAGE_SIZE / CANVAS
    boxes = [tuple(edge * scale for edge in item.box) for item in scene.items]
    return View(np.asarray(image), list(scene.items), boxes, in_tile=False)


def tile_view(scene: Scene, column: int, row: int) -> View:
    """A quadrant at full resolution, with the items that are visible enough to be named."""
    left, top = column * TILE, row * TILE
    image = render(scene).crop((left, top, left + TILE, top + TILE))
    view = View(np.asarray(image), [], [], in_tile=True)
    for item in scene.items:
        x0, y0, x1, y1 = item.box
        box = (max(x0 - left, 0), max(y0 - top, 0), min(x1 - left, TILE), min(y1 - top, TILE))
        visible = max(box[2] - box[0], 0) * max(box[3] - box[1], 0) / ((x1 - x0) * (y1 - y0))
        if visible >= (0.75 if item.kind == "shape" else 0.97):
            view.items.append(item)
            view.boxes.append(box)
    return view


def draw_view(split: str, index: int) -> tuple[View, random.Random]:
    """View `index` of the training: 30 % ordinary scenes, 45 % full of text, 25 % tiles of high definition."""
    rng = generator(split, "tower", index)
    share = rng.random()
    if share < 0.30:
        view = whole_view(make_scene(split, "ordinary", index))
    elif share < 0.75:
        view = whole_view(make_scene(split, "dense", index))
    else:
        style = "small_dense" if share < 0.93 else "dense"
        view = tile_view(make_scene(split, style, index), rng.randrange(2), rng.randrange(2))
    return view, rng


class Views(Dataset):
    """The views from `start` to `stop` of a split, with captions and regions, encoded for `TowerTraining`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, split: str, start: int, stop: int):
        self.tokenizer, self.split, self.start, self.stop = tokenizer, split, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, position: int) -> dict:
        view, rng = draw_view(self.split, self.start + position)
        named = rng.sample(view.items, min(2, len(view.items)))
        place = (lambda item: "") if view.in_tile else (lambda item: f" at the {item.place}")
        text = ", ".join(describe(item) + place(item) for item in named) or "nothing"
        truths = np.zeros((len(view.items), len(PHRASE_LIST)), dtype=np.float32)
        for number, item in enumerate(view.items):
            truths[number, [PHRASE_INDEX[phrase] for phrase in phrases_of(item, view.in_tile)]] = 1
        weights = [region_weights(box) for box in view.boxes] or [np.zeros((0, SIDE * SIDE), dtype=np.float32)]
        return {
            "pixels": torch.from_numpy(view.pixels.copy()).permute(2, 0, 1),
            "caption": encode(self.tokenizer, [text], CAPTION_LENGTH)[0],
            "weights": torch.from_numpy(np.concatenate(weights)),
            "truths": torch.from_numpy(truths.repeat(2, axis=0)),
        }


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> torch.Tensor:
    """Token ids of shape `(len(texts), length)`, padded on the right as SigLIP's text encoder expects."""
    ids = [tokenizer(text)["input_ids"][:length] for text in texts]
    return torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in ids])


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Makes a batch; `valid`, of shape `(B, R)`, is False for the empty regions that pad it."""
    most = max(len(example["weights"]) for example in examples)
    batch = {key: torch.stack([example[key] for example in examples]) for key in ("pixels", "caption")}
    for key in ("weights", "truths"):
        batch[key] = torch.stack([F.pad(e[key], (0, 0, 0, most - len(e[key]))) for e in examples])
    counts = torch.tensor([len(example["weights"]) for example in examples])
    batch["valid"] = torch.arange(most) < counts[:, None]
    return batch
