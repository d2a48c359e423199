# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The `datasets` sets of the tiny checkpoint: pictures in `images`, a conversation in `messages`.

Row `index` of a set is a pure function of its split and index, so every set can be made again, in part or in parallel.
"""

import io
import random
from collections.abc import Callable

from datasets import Dataset, Features, Image, List, Value

from flashsloth.train.rows import MESSAGES
from flashsloth.train.tiny.questions import DESCRIBE, KINDS, Turn, ask, caption, conversation
from flashsloth.train.tiny.scenes import Scene, generator, make_scene, render


TRAINING = Features({"images": List(Image()), "messages": MESSAGES})
EXAM = Features({**TRAINING, "kind": Value("string")})

# Shares of the kinds of scenes. "text" is a scene told in words, without a picture.
CAPTION_MIX = {"ordinary": 0.5, "dense": 0.5}
QUESTION_MIX = {"ordinary": 0.4, "sparse": 0.25, "dense": 0.27, "small": 0.03, "text": 0.05}
HD_MIX = {"ordinary": 0.25, "sparse": 0.15, "dense": 0.15, "small": 0.4, "text": 0.05}
# Most questions about one training scene. Another question costs far less than another picture and its system prompt.
TURNS = 8
EMPHASIS = ("relation", "relation", "places", "places", "places")  # what is asked more often about pictures
DESCRIBED_SHARE = 0.2  # of the told scenes are put into order before the questions


def picture(scene: Scene) -> dict:
    """A scene's picture as the bytes of a PNG file, as `datasets` stores it."""
    file = io.BytesIO()
    render(scene).save(file, "PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}


def messages_of(turns: list[Turn], with_image: bool) -> list[dict]:
    """Turns in the chat format that TRL and the processor take; the picture stands before the first question."""
    messages = []
    for number, turn in enumerate(turns):
        image = [{"type": "image", "text": None}] if with_image and number == 0 else []
        messages.append({"role": "user", "content": image + [{"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages


def told(scene: Scene, turns: list[Turn], rng: random.Random) -> list[dict]:
    """A conversation about a scene that is told in words instead of shown."""
    first = Turn(turns[0].kind, f"{caption(scene, rng)}\n{turns[0].question}", turns[0].answer)
    return messages_of([first, *turns[1:]], with_image=False)


def choose(mix: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(mix), weights=list(mix.values()))[0]


def caption_row(split: str, index: int) -> dict:
    """Stage 1: a picture in, its caption out."""
    scene = make_scene(split, choose(CAPTION_MIX, generator(split, "captions", index)), index)
    turns = [Turn("caption", DESCRIBE, caption(scene))]
    return {"images": [picture(scene)], "messages": messages_of(turns, with_image=True)}


def told_row(split: str, index: int) -> dict:
    """Language modelling: a scene told in words, then put into order or asked about."""
    rng = generator(split, "told", index)
    scene = make_scene(split, rng.choice(("ordinary", "ordinary", "dense", "small")), index)
    turns = conversation(scene, rng, TURNS)
    if rng.random() < DESCRIBED_SHARE:
        turns.insert(0, Turn("caption", DESCRIBE, caption(scene)))
    return {"images": [], "messages": told(scene, turns, rng)}


def _conversation_row(mix: dict[str, float], name: str, split: str, index: int) -> dict:
    rng = generator(split, name, index)
    style = choose(mix, rng)
    if style == "text":
        return told_row(split, index)
    scene = make_scene(split, style, index)
    return {
        "images": [picture(scene)],
        "messages": messages_of(conversation(scene, rng, TURNS, EMPHASIS), with_image=True),
    }


def question_row(split: str, index: int) -> dict:
    """Stage 2: several questions about a picture, or about a scene told in words."""
    return _conversation_row(QUESTION_MIX, "questions", split, index)


def hd_row(split: str, index: int) -> dict:
    """The HD stage: as stage 2, with mostly small text."""
    return _conversation_row(HD_MIX, "hd", split, index)


def exam_row(split: str, index: int) -> dict:
    """One question about a picture of its own; the kinds take turns."""
    kind = list(KINDS)[index % len(KINDS)]
    return _first_question(split, kind, ("ordinary", "ordinary", "dense"), "exam", index)


def small_text_row(split: str, index: int) -> dict:
    """One question about a word or number that is too small for the standard view."""
    return _first_question(split, ("word", "number")[index % 2], ("small",), "small text", index)


def _first_question(split: str, kind: str, styles: tuple[str, ...], name: str, index: int) -> dict:
    rng = generator(split, name, index)
    while True:
        scene = make_scene(split, rng.choice(styles), rng.randrange(1 << 40))
        turn = ask(kind, scene, rng)
        if turn is not None:
            return {"images": [picture(scene)], "messages": messages_of([turn], with_image=True), "kind": kind}


ROWS: dict[str, Callable[[str, int], dict]] = {
    "captions": caption_row,
    "told": told_row,
    "questions": question_row,
    "hd": hd_row,
    "exam": exam_row,
    "small_text": small_text_row,
}


def make_dataset(name: str, split: str, rows: int) -> Dataset:
    """
    Makes one of the sets, in memory.

    Args:
        name (`str`): "captions", "told", "questions", "hd", "exam" or "small_text".
        split (`str`): "train", "validation" or "heldout".
        rows (`int`): Number of rows.

    Returns:
        `Dataset` with the columns `images` and `messages`, and `kind` for "exam" and "small_text".
    """
    features = EXAM if name in ("exam", "small_text") else TRAINING
    return Dataset.from_list([ROWS[name](split, index) for index in range(rows)], features=features)


def in_batches_of_similar_length(dataset: Dataset, batch_size: int, seed: int, window: int = 16) -> Dataset:
    """
    Orders rows so that each batch read in sequence holds conversations of similar length, which saves padding.

    Args:
        dataset (`Dataset`): Rows in random order.
        batch_size (`int`): Rows per batch.
        seed (`int`): Of the order of the batches.
        window (`int`, *optional*, defaults to 16): Rows move within so many batches only.
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
