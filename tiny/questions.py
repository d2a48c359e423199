# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Captions, questions and answers about a scene.

Every answer follows from the scene's description, never from its pixels. If a question ends with `BRIEFLY`, its answer
is a word or a phrase; otherwise the answer is a sentence.
"""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

from flashsloth.tiny.scenes import COLORS, GRID, HELDOUT_PAIRS, PLACES, SHAPES, Item, Scene


BRIEFLY = "Answer briefly."
DESCRIBE = "Describe the picture."  # the checkpoints learned these words: they must not change
Answer = tuple[str, str, str]  # question without its suffix, brief answer, sentence


@dataclass(frozen=True)
class Turn:
    """A question about a scene, its answer, and the kind of the question."""

    kind: str
    question: str
    answer: str


def name_of(item: Item) -> str:
    """The name of an item, without an article: "red circle", "word cat", "number 47", "digit 7"."""
    return f"{item.color} {item.shape}" if item.kind == "shape" else f"{item.kind} {item.text}"


def describe(item: Item) -> str:
    """An item as captions name it, a shape with its size: "large red circle"."""
    return f"{item.size} {name_of(item)}" if item.kind == "shape" else name_of(item)


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """Names the items of a scene, row by row or, with `rng`, in random order; ordinary scenes with their places."""
    items = sorted(scene.items, key=lambda item: (item.row, item.column))
    if rng is not None:
        rng.shuffle(items)
    if scene.grid != GRID:
        return ", ".join(describe(item) for item in items) + "."
    return ", ".join(f"{describe(item)} at {item.place}" for item in items) + "."


def article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def _the_place(place: str) -> str:
    return f"in the {place}" if place == "center" else f"at the {place}"


def _only(items: list[Item], attribute: str) -> list[Item]:
    """The items whose `attribute` no other item of the list shares."""
    values = list(map(operator.attrgetter(attribute), items))
    return [item for item, value in zip(items, values, strict=True) if values.count(value) == 1]


def _named_once(scene: Scene) -> list[Item]:
    """The items whose name no other item has."""
    names = [name_of(item) for item in scene.items]
    return [item for item, name in zip(scene.items, names, strict=True) if names.count(name) == 1]


def ask_color(scene: Scene, rng: random.Random) -> Answer | None:
    shapes = scene.of_kind("shape")
    word = rng.choice(("color", "color", "colour"))
    alone = _only(shapes, "shape")
    if alone and rng.random() < 0.7:
        item = rng.choice(alone)
        return f"What {word} is the {item.shape}?", item.color, f"The {item.shape} is {item.color}."
    if shapes and scene.grid == GRID:
        item = rng.choice(shapes)
        there = _the_place(item.place)
        return f"What {word} is the shape {there}?", item.color, f"The shape {there} is {item.color}."
    return None


def ask_shape(scene: Scene, rng: random.Random) -> Answer | None:
    shapes = scene.of_kind("shape")
    alone = _only(shapes, "color")
    if alone and rng.random() < 0.6:
        item = rng.choice(alone)
        question = rng.choice(("What shape is the {} object?", "Which shape is {}?")).format(item.color)
        return question, item.shape, f"The {item.color} object is {article(item.shape)}."
    if shapes and scene.grid == GRID:
        item = rng.choice(shapes)
        there = _the_place(item.place)
        return f"Which shape is {there}?", item.shape, f"The shape {there} is {article(item.shape)}."
    return None


def ask_count(scene: Scene, rng: random.Random) -> Answer | None:
    shapes = scene.of_kind("shape")
    if not shapes:
        return None
    what = rng.random()
    if what < 0.4:
        noun, counted = "shape", shapes
    elif what < 0.7:
        noun = rng.choice(shapes).shape if rng.random() < 0.8 else rng.choice(SHAPES)
        counted = [item for item in shapes if item.shape == noun]
    else:
        color = rng.choice(shapes).color if rng.random() < 0.8 else rng.choice(tuple(COLORS))
        noun, counted = f"{color} shape", [item for item in shapes if item.color == color]
    number = len(counted)
    plural = noun.replace("cross", "crosse") + "s"
    verb = "is" if number == 1 else "are"
    return f"How many {plural} are there?", str(number), f"There {verb} {number} {noun if number == 1 else plural}."


def ask_place(scene: Scene, rng: random.Random) -> Answer | None:
    items = _named_once(scene)
    if not items or scene.grid != GRID:
        return None
    item = rng.choice(items)
    name = name_of(item)
    if item.kind == "shape" and item in _only(scene.of_kind("shape"), "shape") and rng.random() < 0.5:
        name = item.shape
    return f"Where is the {name}?", item.place, f"The {name} is {_the_place(item.place)}."


def ask_places(scene: Scene, rng: random.Random) -> Answer | None:
    items = _named_once(scene)
    if len(items) < 2 or scene.grid != GRID:
        return None
    first, second = rng.sample(items, 2)
    one, other = name_of(first), name_of(second)
    return (
        f"Where are the {one} and the {other}?",
        f"{one} {first.place}, {other} {second.place}",
        f"The {one} is {_the_place(first.place)} and the {other} is {_the_place(second.place)}.",
    )


def ask_spot(scene: Scene, rng: random.Random) -> Answer | None:
    if scene.grid != GRID:
        return None
    there = {item.place: name_of(item) for item in scene.items}
    place = rng.choice(list(there) if rng.random() < 0.8 else PLACES)
    where, name = _the_place(place), there.get(place)
    if name is None:
        return f"What is {where}?", "nothing", f"Nothing is {where}."
    return f"What is {where}?", name, f"The {name} is {where}."


def ask_relation(scene: Scene, rng: random.Random) -> Answer | None:
    if scene.grid != GRID:
        return None
    items = _named_once(scene)
    axis = rng.choice(("column", "row"))
    position = operator.attrgetter(axis)
    pairs = [(first, second) for first in items for second in items if position(first) < position(second)]
    if not pairs:
        return None
    before, after = rng.choice(pairs)
    first, second = rng.sample((before, after), 2)
    one, other = name_of(first), name_of(second)
    towards = {"column": ("left", "right"), "row": ("higher", "lower")}[axis]
    if rng.random() < 0.7:
        end = rng.randrange(2)
        answer = name_of((before, after)[end])
        comparison = f"further {towards[end]}" if axis == "column" else towards[end]
        return f"Which is {comparison}, the {one} or the {other}?", answer, f"The {answer} is {comparison}."
    preposition, true = rng.choice(
        (
            (("left of", "above")[axis == "row"], first is before),
            (("right of", "below")[axis == "row"], first is after),
        )
    )
    claim = f"the {one} is {'' if true else 'not '}{preposition} the {other}"
    return (
        f"Is the {one} {preposition} the {other}?",
        "yes" if true else "no",
        f"{'Yes' if true else 'No'}, {claim}.",
    )


def ask_existence(scene: Scene, rng: random.Random) -> Answer | None:
    shapes = scene.of_kind("shape")
    if not shapes:
        return None
    present = {(item.color, item.shape) for item in shapes}
    if rng.random() < 0.5:
        color, shape = rng.choice(sorted(present))
    else:
        color, shape = rng.choice(tuple(COLORS)), rng.choice(SHAPES)
        # Two of three absent items share their colour or shape with an item of the scene.
        near = rng.choice(shapes)
        color, shape = rng.choice(((color, shape), (near.color, shape), (color, near.shape)))
        if (color, shape) in present or (color, shape) in HELDOUT_PAIRS:
            return None
    thing = article(f"{color} {shape}")
    if (color, shape) in present:
        return f"Is there {thing}?", "yes", f"Yes, there is {thing}."
    return f"Is there {thing}?", "no", f"No, there is no {color} {shape}."


def _ask_reading(kind: str, asked: tuple[str, ...], scene: Scene, rng: random.Random) -> Answer | None:
    items = scene.of_kind(kind)
    if len(items) == 1:
        return rng.choice(asked), items[0].text, f"The {kind} is {items[0].text}."
    if items and scene.grid == GRID:
        item = rng.choice(items)
        there = _the_place(item.place)
        return f"Which {kind} is {there}?", item.text, f"The {kind} {there} is {item.text}."
    return None


def ask_word(scene: Scene, rng: random.Random) -> Answer | None:
    return _ask_reading("word", ("What word is written here?", "Which word do you see?", "Read the word."), scene, rng)


def ask_number(scene: Scene, rng: random.Random) -> Answer | None:
    return _ask_reading("number", ("What number is written here?", "Read the number."), scene, rng)


def ask_digit(scene: Scene, rng: random.Random) -> Answer | None:
    return _ask_reading("digit", ("Which digit is written by hand?", "Read the handwritten digit."), scene, rng)


KINDS: dict[str, Callable[[Scene, random.Random], Answer | None]] = {
    "color": ask_color,
    "shape": ask_shape,
    "count": ask_count,
    "place": ask_place,
    "relation": ask_relation,
    "existence": ask_existence,
    "word": ask_word,
    "number": ask_number,
    "digit": ask_digit,
}
# For training only. An answer that names the places of two items teaches the decoder to find each item where it is
# mentioned; without such answers, relations stayed at chance.
LESSONS: dict[str, Callable[[Scene, random.Random], Answer | None]] = {"places": ask_places, "spot": ask_spot}


def ask(kind: str, scene: Scene, rng: random.Random, brief_share: float = 0.7) -> Turn | None:
    """A question of one kind, or `None` if the scene allows none that has exactly one right answer."""
    drawn = (KINDS | LESSONS)[kind](scene, rng)
    if drawn is None:
        return None
    question, brief, sentence = drawn
    if rng.random() < brief_share:
        return Turn(kind, f"{question} {BRIEFLY}", brief)
    return Turn(kind, question, sentence)
