# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The images of the tiny checkpoints: coloured shapes, words, numbers and handwritten digits on a plain background.

A scene is a pure function of its split, style and index. It is drawn on a square canvas of 192 pixels. The standard
view scales the canvas down to 96 pixels; an HD tile is a quadrant of it at full resolution.
"""

import random
import zlib
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw

from flashsloth.tiny.glyphs import (
    FACES,
    SHAPES,
    digit_mask,
    fit_text,
    font,
    handwritten_digits,
    shape_mask,
)


CANVAS = 192  # pixels
TILE = CANVAS // 2  # an HD tile is one quadrant
GRID = 3  # ordinary items are in the cells of a 3 x 3 grid
SMALL_GRID = 4  # items of small-text scenes are in a 4 x 4 grid, whose cells never cross the border of a tile

SPLITS = ("train", "validation", "heldout")
STYLES = ("ordinary", "dense", "small", "small_dense", "sparse")

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 220),
    "yellow": (242, 210, 30),
    "orange": (245, 135, 25),
    "purple": (135, 50, 175),
    "pink": (250, 145, 190),
    "black": (25, 25, 25),
}
HELDOUT_PAIRS = (("red", "star"), ("blue", "ring"), ("yellow", "cross"), ("green", "triangle"))
SIZES = {"small": (28, 32), "large": (48, 54)}  # side in canvas pixels

WORDS = tuple(
    (
        "ant arm bag bat bed bee box boy bus cap car cat cow cup dog ear egg eye fan fig fox gum hat hen ice jam jar "
        "key kid leg lip log map mud nut oak owl pan pen pig pot rug sea sky sun tea toe toy van web zoo "
        "bird book cake door fish frog hand lamp moon tree"
    ).split()
)
NUMBERS = tuple(str(number) for number in range(10, 100))
TEXT_SIZES = (22, 28)  # font size in canvas pixels: 11 to 14 in the standard view
SMALL_TEXT_SIZES = (10, 12)  # 5 to 6 in the standard view, too small to read; 10 to 12 in an HD tile
DIGIT_SIZES = (46, 56)  # side in canvas pixels
# Of ten blocks of handwritten digits in a row, those that are not for training.
DIGIT_BLOCKS = {0: "heldout", 1: "heldout", 2: "validation"}

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True)
class Item:
    """An object of a scene.

    Args:
        kind (`str`): "shape", "word", "number" or "digit".
        column, row (`int`): Its cell in the scene's grid.
        box (`tuple[int, int, int, int]`): Left, top, right, bottom in canvas pixels.
        ink (`tuple[int, int, int]`): The RGB colour in which it is drawn.
        color, shape, size (`str`): Of a shape; empty otherwise.
        text (`str`): The text of a word, number or digit; empty for a shape.
        style (`int`): The font of a text, or the index of the handwritten digit.
        font_size (`int`): The size of a text, in canvas pixels.
    """

    kind: str
    column: int
    row: int
    box: tuple[int, int, int, int]
    ink: tuple[int, int, int]
    color: str = ""
    shape: str = ""
    size: str = ""
    text: str = ""
    style: int = 0
    font_size: int = 0

    @property
    def place(self) -> str:
        """The cell of a 3 x 3 grid in words."""
        return PLACES[self.row * GRID + self.column]


@dataclass(frozen=True)
class Scene:
    """What one image shows.

    Args:
        background (`tuple[int, int, int]`): The RGB colour behind the items.
        grid (`int`): Cells along a side: `GRID`, or `SMALL_GRID` for small-text scenes.
        items (`tuple[Item, ...]`): The items.
    """

    background: tuple[int, int, int]
    grid: int
    items: tuple[Item, ...]

    def of_kind(self, kind: str) -> list[Item]:
        return [item for item in self.items if item.kind == kind]


def generator(split: str, name: str, index: int) -> random.Random:
    """
    Random numbers for one example: the same on every machine, and others for each split, name and index. To rename is
    to draw other data: the names belong to the recipe of the shipped checkpoints.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    return random.Random(zlib.crc32(f"{split}/{name}/{index}".encode()) * 1_000_003 + index)


@lru_cache
def digits_of(split: str) -> dict[int, list[int]]:
    """The indices of a split's handwritten digits, by value."""
    indices = {value: [] for value in range(10)}
    for index, value in enumerate(handwritten_digits()[1]):
        # Neighbours in this set were often written by the same hand, so a split gets blocks of ten.
        if DIGIT_BLOCKS.get((index // 10) % 10, "train") == split:
            indices[int(value)].append(index)
    return indices


def _shifted(color: tuple[int, int, int], rng: random.Random, by: int) -> tuple[int, int, int]:
    return tuple(min(255, max(0, channel + rng.randint(-by, by))) for channel in color)


def make_scene(split: str, style: str, index: int) -> Scene:
    """Draws the random content of scene `index`.

    Args:
        split (`str`): "train", "validation" or "heldout". The splits share no handwritten digit, and the pairs in
            `HELDOUT_PAIRS` occur in "heldout" only.
        style (`str`): "ordinary" (shapes, with a text in most images), "dense" (mostly texts), "small" (shapes with
            one small word and one small number), "small_dense" (a small item in every cell, for the training of the
            vision tower) or "sparse" (two items, the easiest scenes for learning to compare).
        index (`int`): The number of the scene.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; choose one of {', '.join(STYLES)}")
    rng = generator(split, style, index)
    kinds = _draw_kinds(style, rng)
    small = style.startswith("small")
    grid = SMALL_GRID if small else GRID
    cells = rng.sample(range(grid * grid), len(kinds))
    tint = rng.randint(215, 250)
    background = _shifted((tint, tint, tint), rng, 12)
    items = tuple(
        _make_item(kind, cell % grid, cell // grid, CANVAS // grid, small, split, rng)
        for kind, cell in zip(kinds, cells, strict=True)
    )
    return Scene(background, grid, items)


def _draw_kinds(style: str, rng: random.Random) -> list[str]:
    """The kinds of a scene's items."""
    if style == "ordinary":
        shapes = rng.choice((0, 1, 2, 2, 3, 3, 4, 5))
        texts = rng.choice((0, 1, 1, 2)) if shapes else rng.choice((1, 2))
        return ["shape"] * shapes + [rng.choice(("word", "number", "digit")) for _ in range(texts)]
    if style == "dense":
        kinds = [rng.choice(("word", "word", "number", "digit")) for _ in range(rng.randint(3, 6))]
        return kinds + ["shape"] * rng.randint(0, 2)
    if style == "small":
        return ["word", "number"] + ["shape"] * rng.randint(1, 3)
    if style == "small_dense":
        return rng.choices(("word", "number", "shape"), weights=(5, 3, 2), k=SMALL_GRID**2)
    return rng.choices(("shape", "word", "number", "digit"), weights=(6, 1, 1, 1), k=2)


def _make_item(kind: str, column: int, row: int, cell: int, small: bool, split: str, rng: random.Random) -> Item:
    """One item with random looks, somewhere inside its cell, which is a square of `cell` pixels."""
    fields = {}
    if kind == "shape":
        while not fields or (split != "heldout" and (fields["color"], fields["shape"]) in HELDOUT_PAIRS):
            fields = {"color": rng.choice(tuple(COLORS)), "shape": rng.choice(SHAPES)}
        fields["size"] = "small" if small else rng.choice(tuple(SIZES))
        width = height = rng.randint(*SIZES[fields["size"]])
        ink = _shifted(COLORS[fields["color"]], rng, 10)
    elif kind == "digit":
        value = rng.randrange(10)
        fields = {"text": str(value), "style": rng.choice(digits_of(split)[value])}
        width = height = rng.randint(*DIGIT_SIZES)
        ink = _shifted((40, 40, 40), rng, 30)
    else:
        fields = {"text": rng.choice(WORDS if kind == "word" else NUMBERS), "style": rng.randrange(FACES)}
        size = rng.randint(*(SMALL_TEXT_SIZES if small else TEXT_SIZES))
        fields["font_size"], width, height = fit_text(fields["text"], fields["style"], size, cell - 2)
        ink = _shifted((40, 40, 40), rng, 30)
    left = column * cell + rng.randint(1, cell - width - 1)
    top = row * cell + rng.randint(1, cell - height - 1)
    return Item(kind, column, row, (left, top, left + width, top + height), ink, **fields)


def render(scene: Scene) -> Image.Image:
    """Draws a scene as an RGB image of `CANVAS` x `CANVAS` pixels."""
    image = Image.new("RGB", (CANVAS, CANVAS), scene.background)
    draw = ImageDraw.Draw(image)
    for item in scene.items:
        left, top, right, bottom = item.box
        if item.kind == "shape":
            image.paste(item.ink, (left, top), shape_mask(item.shape, right - left))
        elif item.kind == "digit":
            image.paste(item.ink, (left, top), digit_mask(item.style, right - left, bottom - top))
        else:
            face = font(item.style, item.font_size)
            inset = face.getbbox(item.text)
            draw.text((left - inset[0], top - inset[1]), item.text, fill=item.ink, font=face)
    return image
