# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The pictures of the tiny checkpoint: coloured shapes, words, numbers and handwritten digits on a plain ground.

A scene is a pure function of its split and index. It is drawn on a square canvas of 192 pixels; the standard view
squashes that to 96 pixels, an HD tile shows a quadrant of it at its own resolution. Only fonts that come with Pillow
and matplotlib are used, so that every machine draws the same letters.
"""

import math
import random
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits


CANVAS = 192  # pixels
TILE = CANVAS // 2  # an HD tile is one quadrant
GRID = 3  # ordinary objects sit in the cells of a 3 x 3 grid
SMALL_GRID = 4  # objects of small-text scenes sit in a 4 x 4 grid, whose cells never cross the border of a tile

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
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
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

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True)
class Item:
    """One object of a scene.

    Args:
        kind (`str`): "shape", "word", "number" or "digit".
        column, row (`int`): Its cell in the scene's grid.
        box (`tuple[int, int, int, int]`): Left, top, right, bottom in canvas pixels.
        color, shape, size (`str`): Of a shape; empty otherwise.
        text (`str`): What a word, number or digit reads; empty for a shape.
        style (`int`): Font of a text, or index of the handwritten digit.
        font_size (`int`): Of a text, in canvas pixels.
        ink (`tuple[int, int, int]`): The colour it is drawn in.
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
    """What stands in one picture: its ground's colour, its grid (3, or 4 for small-text scenes) and its objects."""

    background: tuple[int, int, int]
    grid: int
    items: tuple[Item, ...]

    def of_kind(self, kind: str) -> list[Item]:
        return [item for item in self.items if item.kind == kind]


def generator(split: str, name: str, index: int) -> random.Random:
    """The random numbers of one example: equal on every machine, different for every split, name and index."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    return random.Random(zlib.crc32(f"{split}/{name}/{index}".encode()) * 1_000_003 + index)


@lru_cache
def _handwriting() -> tuple[np.ndarray, dict[str, dict[int, list[int]]]]:
    """scikit-learn's digits, (1797, 8, 8) in 0..16, and which of them belong to which split, by value."""
    digits = load_digits()
    owners = {0: "heldout", 1: "heldout", 2: "validation"}
    members = {split: {value: [] for value in range(10)} for split in SPLITS}
    for index, value in enumerate(digits.target):
        # Neighbours in this set were often written by the same hand, hence blocks and not every tenth one.
        members[owners.get((index // 10) % 10, "train")][int(value)].append(index)
    return digits.images, members


@lru_cache(maxsize=256)
def _font(face: int, size: int) -> ImageFont.FreeTypeFont:
    if face == 0:
        return ImageFont.load_default(size)
    name = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")[face - 1]
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _shifted(color: tuple[int, int, int], rng: random.Random, by: int) -> tuple[int, int, int]:
    return tuple(min(255, max(0, channel + rng.randint(-by, by))) for channel in color)


def make_scene(split: str, style: str, index: int) -> Scene:
    """Draws up scene `index` of a split.

    Args:
        split (`str`): "train", "validation" or "heldout". The splits share no handwritten digit, and the pairs in
            `HELDOUT_PAIRS` occur in "heldout" only.
        style (`str`): "ordinary" (shapes, with a text in most pictures), "dense" (mostly texts), "small" (shapes with
            one small word and one small number), "small_dense" (a small object in every cell, as material for the
            vision tower) or "sparse" (two objects, from which comparing is learned first).
        index (`int`): Which one.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; choose one of {', '.join(STYLES)}")
    rng = generator(split, style, index)
    if style == "ordinary":
        shapes = rng.choice((0, 1, 2, 2, 3, 3, 4, 5))
        texts = rng.choice((0, 1, 1, 2)) if shapes else rng.choice((1, 2))
        kinds = ["shape"] * shapes + [rng.choice(("word", "number", "digit")) for _ in range(texts)]
    elif style == "dense":
        kinds = [rng.choice(("word", "word", "number", "digit")) for _ in range(rng.randint(3, 6))]
        kinds += ["shape"] * rng.randint(0, 2)
    elif style == "small":
        kinds = ["word", "number"] + ["shape"] * rng.randint(1, 3)
    elif style == "small_dense":
        kinds = rng.choices(("word", "number", "shape"), weights=(5, 3, 2), k=SMALL_GRID**2)
    else:
        kinds = rng.choices(("shape", "word", "number", "digit"), weights=(6, 1, 1, 1), k=2)
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


def _make_item(kind: str, column: int, row: int, cell: int, small: bool, split: str, rng: random.Random) -> Item:
    """One object of random looks, somewhere inside its cell of `cell` pixels."""
    looks = {}
    if kind == "shape":
        while not looks or (split != "heldout" and (looks["color"], looks["shape"]) in HELDOUT_PAIRS):
            looks = {"color": rng.choice(tuple(COLORS)), "shape": rng.choice(SHAPES)}
        looks["size"] = "small" if small else rng.choice(tuple(SIZES))
        width = height = rng.randint(*SIZES[looks["size"]])
        ink = _shifted(COLORS[looks["color"]], rng, 10)
    elif kind == "digit":
        value = rng.randrange(10)
        looks = {"text": str(value), "style": rng.choice(_handwriting()[1][split][value])}
        width = height = rng.randint(*DIGIT_SIZES)
        ink = _shifted((40, 40, 40), rng, 30)
    else:
        looks = {"text": rng.choice(WORDS if kind == "word" else NUMBERS), "style": rng.randrange(3)}
        size = rng.randint(*(SMALL_TEXT_SIZES if small else TEXT_SIZES))
        looks["font_size"], width, height = _fit_text(looks["text"], looks["style"], size, cell - 2)
        ink = _shifted((40, 40, 40), rng, 30)
    left = column * cell + rng.randint(1, cell - width - 1)
    top = row * cell + rng.randint(1, cell - height - 1)
    return Item(kind, column, row, (left, top, left + width, top + height), ink, **looks)


@lru_cache(maxsize=8192)
def _fit_text(text: str, face: int, size: int, limit: int) -> tuple[int, int, int]:
    """The largest font size up to `size` at which a text is at most `limit` pixels wide, and its width and height."""
    while True:
        left, top, right, bottom = _font(face, size).getbbox(text)
        if right - left <= limit:
            return size, math.ceil(right - left), math.ceil(bottom - top)
        size -= 1


def render(scene: Scene) -> Image.Image:
    """The picture of a scene, (192, 192) RGB."""
    image = Image.new("RGB", (CANVAS, CANVAS), scene.background)
    draw = ImageDraw.Draw(image)
    for item in scene.items:
        left, top, right, bottom = item.box
        if item.kind == "shape":
            mask = _shape_mask(item.shape, right - left)
            image.paste(item.ink, (left, top), mask)
        elif item.kind == "digit":
            pixels = (_handwriting()[0][item.style] * (255 / 16)).astype(np.uint8)
            mask = Image.fromarray(pixels).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
            image.paste(item.ink, (left, top), mask)
        else:
            font = _font(item.style, item.font_size)
            inset = font.getbbox(item.text)
            draw.text((left - inset[0], top - inset[1]), item.text, fill=item.ink, font=font)
    return image


@lru_cache(maxsize=512)
def _shape_mask(shape: str, side: int) -> Image.Image:
    """A shape as an antialiased mask of `side` pixels."""
    scale = 4
    full = side * scale
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
        points = []
        for corner in range(10):
            radius = full / 2 * (1 if corner % 2 == 0 else 0.42)
            angle = math.pi * (corner / 5 - 0.5)
            points.append((full / 2 + radius * math.cos(angle), full / 2 + radius * math.sin(angle)))
        draw.polygon(points, fill=255)
    else:
        raise ValueError(f"unknown shape {shape!r}; choose one of {', '.join(SHAPES)}")
    return mask.resize((side, side), Image.Resampling.BOX)
