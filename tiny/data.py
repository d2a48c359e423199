# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The `datasets` sets of the tiny checkpoint: pictures in `images`, a conversation in `messages`.

Row `index` of a set is a pure function of its split and index, so every set can be made again, in part or in parallel.
"""

import io
import random
import re
from collections.abc import Callable

from datasets import Dataset, Features, Image, List, Value

from flashsloth.tiny.questions import DESCRIBE, KINDS, LESSONS, Turn, ask, caption, conversation, describe
from flashsloth.tiny.scenes import Scene, generator, make_scene, render
from flashsloth.train.data.rows import MESSAGES


TRAINING = Features({"images": List(Image()), "messages": MESSAGES})
EXAM = Features({**TRAINING, "kind": Value("string")})

# Shares of the kinds of scenes. "text" is a scene told in words, without a picture; "caption" a row of stage 1, which
# also stands in for a scene that allows no question.
CAPTION_MIX = {"ordinary": 0.5, "dense": 0.5}
ITEM_MIX = {"ordinary": 0.5, "sparse": 0.4, "dense": 0.1}
SKETCH_MIX = {"ordinary": 0.5, "sparse": 0.3, "dense": 0.2}
QUESTION_MIX = {"ordinary": 0.55, "sparse": 0.1, "dense": 0.22, "small": 0.03, "text": 0.02, "caption": 0.08}
HD_MIX = {"ordinary": 0.25, "sparse": 0.15, "dense": 0.15, "small": 0.4, "text": 0.05}
# Most questions about one training scene. Another question costs far less than another picture and its system prompt.
TURNS = 8
# Emphasis in the decoder's dialogues, and the kinds asked about pictures: what the decoder cannot do yet comes often.
SPOTS = ("spot", "spot")
COMPARISONS = ("relation", "relation", "places", "places", "places")
PICTURE_KINDS = (*KINDS, *["count"] * 2, *["relation"] * 4, "existence", "places")
PICTURE_KINDS += ("word", "number", "digit", "count", "word")
# Kinds that ask about one item of a picture; what is written in it is the hardest to see.
ITEM_KINDS = ("color", "shape", "place", "word", "number", "digit", "word", "number", "digit")
# Questions to the decoder about one scene: all kinds, or comparisons alone.
QUIZZES = ((*KINDS, *LESSONS, "color", "count", "existence"), ("relation", "relation", "relation", "places"))
QUIZ_TRIES = 18
FORM_TRIES = 6  # until a question is of an allowed form
# Forms of comparisons, learned one after the other. With all at once, "higher" and "lower" cancel each other out, and
# the decoder stays at chance.
FORMS = {
    "which first": r"Which is (higher|further left)",
    "which": r"Which is",
    "whether first": r"Is the .* (left of|above) the",
    "whether": r"Is the .* the",
    "any": r"",
}
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
    """A scene told in words instead of shown, then put into order or asked about."""
    rng = generator(split, "told", index)
    scene = make_scene(split, rng.choice(("ordinary", "sparse", "sparse", "dense", "small")), index)
    turns = conversation(scene, rng, TURNS, SPOTS)
    if rng.random() < DESCRIBED_SHARE:
        turns.insert(0, Turn("caption", DESCRIBE, caption(scene)))
    return {"images": [], "messages": told(scene, turns, rng)}


def listing(split: str, index: int) -> tuple[Scene, str]:
    """Language modelling: a scene, and what stands where in it, in random order."""
    rng = generator(split, "listing", index)
    scene = make_scene(split, rng.choice(("ordinary", "dense", "sparse")), index)
    place_first = rng.random() < 0.5
    parts = [
        (item.place, describe(item)) if place_first else (describe(item), "at", item.place) for item in scene.items
    ]
    rng.shuffle(parts)
    return scene, "".join(f" {' '.join(part)}," for part in parts)


def _of_form(turn: Turn, form: str) -> bool:
    return turn.kind != "relation" or re.match(FORMS[form], turn.question) is not None


def _drawn(
    scene: Scene, kinds: list[str], form: str, rng: random.Random, brief_share: float = 0.7, turns: int = TURNS
) -> list[Turn]:
    """Different questions of the kinds that a scene allows, in their order; comparisons of one form."""
    drawn: dict[str, Turn] = {}
    for kind in kinds:
        for _ in range(FORM_TRIES):
            turn = ask(kind, scene, rng, brief_share)
            if turn is not None and _of_form(turn, form):
                drawn.setdefault(turn.question, turn)
                break
    return list(drawn.values())[:turns]


def quiz(split: str, index: int, form: str) -> tuple[Scene, list[Turn]]:
    """Language modelling: a scene, and different questions about it with brief answers; comparisons of one form."""
    rng = generator(split, "quiz", index)
    scene = make_scene(split, choose(SKETCH_MIX, rng), index)
    kinds = rng.choices(rng.choice(QUIZZES), k=QUIZ_TRIES)
    return scene, _drawn(scene, kinds, form, rng, brief_share=1, turns=QUIZ_TRIES)


def sketched_row(split: str, index: int, form: str) -> tuple[Scene, list[dict]]:
    """Language modelling: a scene, and the conversation about its picture; comparisons of one form."""
    rng = generator(split, "sketched", index)
    style = choose(SKETCH_MIX, rng)
    scene = make_scene(split, style, index)
    turns = conversation(scene, rng, TURNS, rng.choice((SPOTS, COMPARISONS)))
    turns = [turn for turn in turns if _of_form(turn, form)]
    if not turns or rng.random() < DESCRIBED_SHARE:
        turns = [Turn("caption", DESCRIBE, caption(scene))]
    return scene, messages_of(turns, with_image=True)


def _conversation_row(
    mix: dict[str, float],
    forms: tuple[str, ...],
    name: str,
    split: str,
    index: int,
    kinds: tuple[str, ...] = PICTURE_KINDS,
) -> dict:
    rng = generator(split, name, index)
    style = choose(mix, rng)
    if style == "text":
        return told_row(split, index)
    if style != "caption":
        scene = make_scene(split, style, index)
        turns = _drawn(scene, rng.choices(kinds, k=2 * TURNS), rng.choice(forms), rng)
        if turns:
            return {"images": [picture(scene)], "messages": messages_of(turns, with_image=True)}
    return caption_row(split, index)


def item_row(split: str, index: int) -> dict:
    """The query stage: questions that each ask about one item of a picture."""
    return _conversation_row(ITEM_MIX, ("any",), "items", split, index, ITEM_KINDS)


def question_row(split: str, index: int) -> dict:
    """The beginning of stage 2: several questions about a picture, or about a scene told in words."""
    return _conversation_row(QUESTION_MIX, ("whether first",), "questions", split, index)


def comparison_row(split: str, index: int) -> dict:
    """The end of stage 2: as the beginning, with every form of comparison."""
    return _conversation_row(QUESTION_MIX, ("whether", "any"), "comparisons", split, index)


def hd_row(split: str, index: int) -> dict:
    """The HD stage: as the end of stage 2, with mostly small text."""
    return _conversation_row(HD_MIX, ("whether", "any"), "hd", split, index)


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
    "items": item_row,
    "captions": caption_row,
    "told": told_row,
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
        name (`str`): "items", "captions", "told", "questions", "comparisons", "hd", "exam" or "small_text".
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
