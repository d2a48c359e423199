# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Several questions about one scene, as the chat messages of a training row."""

import random
import re

from flashsloth.tiny.questions import Turn, ask, caption
from flashsloth.tiny.scenes import Scene


# Most questions about one training scene. Another question costs far less than another image and its system prompt.
TURNS = 8
FORM_TRIES = 6  # draws of a question until it has an allowed form
# Forms of comparisons, learned one after the other. With all at once, "higher" and "lower" cancel each other out, and
# the decoder stays at chance.
FORMS = {
    "which first": r"Which is (higher|further left)",
    "which": r"Which is",
    "whether first": r"Is the .* (left of|above) the",
    "whether": r"Is the .* the",
    "any": r"",
}


def conversation(scene: Scene, rng: random.Random, turns: int = 4, emphasis: tuple[str, ...] = ()) -> list[Turn]:
    """
    Draws different questions about one scene. Relations, and kinds that few scenes allow, are preferred.

    Args:
        scene (`Scene`): The scene.
        rng (`random.Random`): Draws the questions.
        turns (`int`, *optional*, defaults to 4): The largest number of questions.
        emphasis (`tuple[str, ...]`, *optional*): Kinds to try more often than others: once more for each mention.
    """
    rare = ["relation", "relation", "word", "number", "digit"]
    common = ["color", "shape", "count", "place", "existence", "relation", *emphasis]
    rng.shuffle(rare)
    rng.shuffle(common)
    drawn: dict[str, Turn] = {}
    for kind in rare[:3] + common + rare[3:]:
        turn = ask(kind, scene, rng)
        if turn is not None and len(drawn) < turns:
            drawn.setdefault(turn.question, turn)
    return rng.sample(list(drawn.values()), len(drawn))


def questions_of_kinds(
    scene: Scene, kinds: list[str], form: str, rng: random.Random, brief_share: float = 0.7, turns: int = TURNS
) -> list[Turn]:
    """
    Draws one question for each of the given kinds, in their order, as far as the scene allows.

    Args:
        scene (`Scene`): The scene.
        kinds (`list[str]`): Kinds of questions; one may occur several times.
        form (`str`): A key of `FORMS`: the only form of comparisons.
        rng (`random.Random`): Draws the questions.
        brief_share (`float`, *optional*, defaults to 0.7): The share of questions that ask for a brief answer.
        turns (`int`, *optional*, defaults to `TURNS`): The largest number of questions.

    Returns:
        `list[Turn]`: Different questions with their answers.
    """
    drawn: dict[str, Turn] = {}
    for kind in kinds:
        for _ in range(FORM_TRIES):
            turn = ask(kind, scene, rng, brief_share)
            if turn is not None and has_form(turn, form):
                drawn.setdefault(turn.question, turn)
                break
    return list(drawn.values())[:turns]


def has_form(turn: Turn, form: str) -> bool:
    """Whether a comparison has the given form of `FORMS`; other questions have every form."""
    return turn.kind != "relation" or re.match(FORMS[form], turn.question) is not None


def messages_about_image(turns: list[Turn]) -> list[dict]:
    """A conversation in the chat format of TRL and the processor, with an image before the first question."""
    messages = _messages(turns)
    messages[0]["content"].insert(0, {"type": "image", "text": None})
    return messages


def messages_about_text(scene: Scene, turns: list[Turn], rng: random.Random) -> list[dict]:
    """The same without an image: a caption stands before the first question."""
    first = Turn(turns[0].kind, f"{caption(scene, rng)}\n{turns[0].question}", turns[0].answer)
    return _messages([first, *turns[1:]])


def _messages(turns: list[Turn]) -> list[dict]:
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": [{"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages
