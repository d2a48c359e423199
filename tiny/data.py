# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The data sets of the tiny checkpoints: images in `images`, a conversation in `messages`.

Row `index` of a set is a pure function of its split and index, so every set can be made again, in part or in parallel.
"""

import io
import random
from collections.abc import Callable

from datasets import Dataset, Features, Image, List, Value

from flashsloth.tiny.conversations import (
    TURNS,
    conversation,
    messages_about_image,
    messages_about_text,
    questions_of_kinds,
)
from flashsloth.tiny.questions import DESCRIBE, KINDS, Turn, ask, caption
from flashsloth.tiny.scenes import Scene, generator, make_scene, render
from flashsloth.train.data.formats import MESSAGES


TRAINING = Features({"images": List(Image()), "messages": MESSAGES})
EXAM = Features({**TRAINING, "kind": Value("string")})

# Shares of the styles of scenes in each set. "text" is a scene in words, without an image. "caption" is a row of stage
# 1, which also replaces a scene that allows no question.
CAPTION_MIX = {"ordinary": 0.5, "dense": 0.5}
ITEM_MIX = {"ordinary": 0.5, "sparse": 0.4, "dense": 0.1}
QUESTION_MIX = {"ordinary": 0.55, "sparse": 0.1, "dense": 0.22, "small": 0.03, "text": 0.02, "caption": 0.08}
HD_MIX = {"ordinary": 0.25, "sparse": 0.15, "dense": 0.15, "small": 0.4, "text": 0.05}
# Kinds of questions about images: what is hard to learn comes often.
IMAGE_KINDS = (*KINDS, *["count"] * 2, *["relation"] * 4, "existence", "places")
IMAGE_KINDS += ("word", "number", "digit", "count", "word")
# Kinds that ask about one item of an image; reading is the hardest.
ITEM_KINDS = ("color", "shape", "place", "word", "number", "digit", "word", "number", "digit")
SPOTS = ("spot", "spot")  # emphasis in conversations about scenes in words
CAPTION_SHARE = 0.2  # share of conversations about scenes in words that begin with a caption in order


def caption_row(split: str, index: int) -> dict:
    """Stage 1: an image and its caption."""
    scene = make_scene(split, choose(CAPTION_MIX, generator(split, "captions", index)), index)
    return _image_row(scene, [Turn("caption", DESCRIBE, caption(scene))])


def item_row(split: str, index: int) -> dict:
    """The query stage: questions that each ask about one item of an image."""
    return _conversation_row(ITEM_MIX, ("any",), "items", split, index, ITEM_KINDS)


def question_row(split: str, index: int) -> dict:
    """The beginning of stage 2: several questions about an image, or about a scene in words."""
    return _conversation_row(QUESTION_MIX, ("whether first",), "questions", split, index)


def comparison_row(split: str, index: int) -> dict:
    """The end of stage 2: like the beginning, with every form of comparison."""
    return _conversation_row(QUESTION_MIX, ("whether", "any"), "comparisons", split, index)


def hd_row(split: str, index: int) -> dict:
    """The HD stage: like the end of stage 2, with mostly small text."""
    return _conversation_row(HD_MIX, ("whether", "any"), "hd", split, index)


def exam_row(split: str, index: int) -> dict:
    """One question about an image of its own; the kinds take turns."""
    kind = list(KINDS)[index % len(KINDS)]
    return _first_question(split, kind, ("ordinary", "ordinary", "dense"), "exam", index)


def small_text_row(split: str, index: int) -> dict:
    """One question about a word or number that is too small for the standard view."""
    return _first_question(split, ("word", "number")[index % 2], ("small",), "small text", index)


def _conversation_row(
    mix: dict[str, float],
    forms: tuple[str, ...],
    name: str,
    split: str,
    index: int,
    kinds: tuple[str, ...] = IMAGE_KINDS,
) -> dict:
    rng = generator(split, name, index)
    style = choose(mix, rng)
    if style == "text":
        return text_row(split, index)
    if style != "caption":
        scene = make_scene(split, style, index)
        turns = questions_of_kinds(scene, rng.choices(kinds, k=2 * TURNS), rng.choice(forms), rng)
        if turns:
            return _image_row(scene, turns)
    return caption_row(split, index)


def text_row(split: str, index: int) -> dict:
    """A scene in words instead of an image: a caption in random order, then questions."""
    rng = generator(split, "told", index)
    scene = make_scene(split, rng.choice(("ordinary", "sparse", "sparse", "dense", "small")), index)
    turns = conversation(scene, rng, TURNS, SPOTS)
    if rng.random() < CAPTION_SHARE:
        turns.insert(0, Turn("caption", DESCRIBE, caption(scene)))
    return {"images": [], "messages": messages_about_text(scene, turns, rng)}


def _first_question(split: str, kind: str, styles: tuple[str, ...], name: str, index: int) -> dict:
    """The first scene of random ones that allows a question of the given kind."""
    rng = generator(split, name, index)
    while True:
        scene = make_scene(split, rng.choice(styles), rng.randrange(1 << 40))
        turn = ask(kind, scene, rng)
        if turn is not None:
            return _image_row(scene, [turn]) | {"kind": kind}


def _image_row(scene: Scene, turns: list[Turn]) -> dict:
    """A row with the scene's image as the bytes of a PNG file, which is how `datasets` stores images."""
    file = io.BytesIO()
    render(scene).save(file, "PNG", compress_level=1)
    return {"images": [{"bytes": file.getvalue(), "path": None}], "messages": messages_about_image(turns)}


def choose(mix: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(mix), weights=list(mix.values()))[0]


ROWS: dict[str, Callable[[str, int], dict]] = {
    "items": item_row,
    "captions": caption_row,
    "questions": question_row,
    "comparisons": comparison_row,
    "hd": hd_row,
    "exam": exam_row,
    "small_text": small_text_row,
}


def make_dataset(name: str, split: str, rows: int) -> Dataset:
    """
    Makes one of the sets, in memory.

    Args:
        name (`str`): "items", "captions", "questions", "comparisons", "hd", "exam" or "small_text".
        split (`str`): "train", "validation" or "heldout".
        rows (`int`): The number of rows.

    Returns:
        `Dataset`: The columns `images` and `messages`; "exam" and "small_text" also have `kind`.
    """
    features = EXAM if name in ("exam", "small_text") else TRAINING
    return Dataset.from_list([ROWS[name](split, index) for index in range(rows)], features=features)


def in_batches_of_similar_length(dataset: Dataset, batch_size: int, seed: int, window: int = 16) -> Dataset:
    """
    Orders rows so that each batch, read in sequence, holds conversations of similar length, which saves padding.

    Args:
        dataset (`Dataset`): Rows in random order.
        batch_size (`int`): Rows in a batch.
        seed (`int`): The seed of the order of batches.
        window (`int`, *optional*, defaults to 16): The number of batches within which rows change places.
    """
    rng = random.Random(seed)
    lengths = [
        sum(len(part["text"] or "") for message in messages for part in message["content"])
        for messages in dataset["messages"]
    ]
    order = []
    for start in range(0, len(dataset), window * batch_size):
        rows = sorted(range(start, min(start + window * batch_size, len(dataset))), key=lengths.__getitem__)
        batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        rng.shuffle(batches)
        order += [row for batch in batches for row in batch]
    return dataset.select(order)
