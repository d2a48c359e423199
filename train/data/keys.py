# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What becomes of the keys of a raw row that hold no conversation. There are three kinds:

- A system prompt (`system`, `system_prompt` and the like) is learned with the row.
- A key that changes what the row means, but that training cannot follow, makes the row a broken one: videos and
  audio, tools and their calls, reasoning beside an answer, rejected answers, chat templates, images under another name
  than `images` and `image`, and marks of turns that are not to be learned (`loss`, `weight`, `train`, `mask`).
- Every other key is metadata, and is passed over: `id`, `source`, `split`, `url`, `width`, `score`, `topic`, `name`.

Values that say nothing (null, an empty text, an empty list) are passed over, as are marks that say what training does
anyway: `loss: true` or `weight: 1` on an answer, `train: false` on a question. A mark is recognized by the words of
its key, so that `train_on_turn` and `lossWeight` are marks too. The same holds within the turns of a row, and within
the parts of their content.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from numbers import Number
from typing import Any

from flashsloth.train.data.wording import quote


# The kinds are recognized by words: "videos" and "video_path" are videos.
MEDIA = {"video", "videos", "audio", "audios"}
# ... unless the last word says that the value is about a video, and is none.
ABOUT = {
    *("id", "ids", "idx", "index", "name", "source", "type", "format", "category", "title", "topic", "caption"),
    *("duration", "length", "fps", "size", "width", "height", "count", "score", "license", "split", "dataset"),
}
SYSTEM = {"system", "prompt", "message", "instruction", "instructions", "content"}
IMAGES = {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"}
IMAGE_HOLDERS = {"path", "paths", "url", "urls", "uri", "file", "files", "bytes", "base64", "b64", "data", "list"}
LEARNED = {"loss", "weight", "weights", "learn", "learned", "train", "trained", "training", "trainable", "supervised"}
NOT_LEARNED = {"mask", "masked", "masks", "ignore", "ignored", "skip", "skipped", "exclude", "excluded"}
OPPOSITE = {"no", "not", "dont", "without", "disable", "disabled"}

# Others by whole keys, since their words are common in metadata.
TOOLS = {
    *("tools", "available_tools", "tool_calls", "tool_call", "tool_call_id", "tool_choice", "tool_responses"),
    *("functions", "function_call", "function_calls"),
}
PREFERENCES = {"chosen", "rejected", "rejected_response", "rejected_responses", "rejected_messages"}
TEMPLATES = {"chat_template", "chat_template_kwargs", "documents"}
REASONING = {
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking",
    "thinking_blocks",
    "thought",
    "thoughts",
}

NO_MEDIA = "the model takes images and text only"
NO_TOOLS = "tools and their calls cannot be learned"
NO_PREFERENCES = "answers are learned, and none can be rejected"
NO_TEMPLATES = "every row has the model's own chat template"
NO_REASONING = "the chat template has no place for it: write it into the answer"
NO_MARKS = (
    "turns cannot be marked: all answers of a row are learned alike, and nothing else. Remove the mark, or the row"
)
NO_OTHER_IMAGES = "it would be learned without: rename it to images or image"
NOT_HERE = "an image belongs to the row, in images or image, or into a part of the content"

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def is_empty(value) -> bool:
    """Whether a value says nothing: null, an empty text, list or mapping, or one of such values only."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_empty, value))
    return value is None


def decides(key: str) -> bool:
    """Whether a key of a row may change what the row means, whatever its value; a set needs such columns."""
    words = _words(key)
    return (
        is_system(key)
        or key in TOOLS | PREFERENCES | TEMPLATES
        or _is_media(words)
        or _is_other_image(words)
        or _is_mark(words)
    )


def is_system(key: str) -> bool:
    """Whether a key of a row holds its system prompt."""
    words = _words(key)
    return words[:1] == ["system"] and SYSTEM.issuperset(words)


def check_row(raw_row: Mapping, read: Iterable[str], num_images: int) -> None:
    """
    Checks the keys of a raw row.

    Args:
        raw_row (`Mapping`): The raw row.
        read (`Iterable[str]`): The keys that its form reads.
        num_images (`int`): How many images it has.

    Raises:
        ValueError: If a key changes what the row means, but training cannot follow it.
    """
    for key, value in _given(raw_row, read):
        words = _words(key)
        kinds = {NO_TOOLS: key in TOOLS, NO_PREFERENCES: key in PREFERENCES, NO_TEMPLATES: key in TEMPLATES}
        kinds |= {NO_MEDIA: _is_media(words) and not isinstance(value, Number)}
        kinds |= {NO_OTHER_IMAGES: not num_images and _is_other_image(words)}
        # A row's answers are learned, and a KTO row's completion is not if its label is false.
        kinds |= {NO_MARKS: key == "label" and value is False or _is_marked_other(words, value, is_answer=True)}
        _refuse("it", key, value, kinds)


def check_turn(turn: Mapping, read: Iterable[str], where: str, is_answer: bool) -> None:
    """
    Checks the keys of a turn, or of a part of its content.

    Args:
        turn (`Mapping`): The turn, or the part.
        read (`Iterable[str]`): The keys that are read.
        where (`str`): What an error calls it.
        is_answer (`bool`): Whether it is the assistant's.

    Raises:
        ValueError: If a key changes what the row means, but training cannot follow it.
    """
    for key, value in _given(turn, read):
        words = _words(key)
        kinds = {NO_TOOLS: key in TOOLS, NO_REASONING: key in REASONING}
        kinds |= {NO_MEDIA: _is_media(words) and not isinstance(value, Number)}
        kinds |= {NOT_HERE: key in IMAGES or _is_other_image(words)}
        kinds |= {NO_MARKS: _is_marked_other(words, value, is_answer)}
        _refuse(where, key, value, kinds)


def _given(mapping: Mapping, read: Iterable[str]) -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if key not in read and not is_empty(value):
            yield str(key), value


def _refuse(where: str, key: str, value, kinds: dict[str, bool]) -> None:
    for reason, is_of_kind in kinds.items():
        if is_of_kind and (reason == NO_MARKS or value is not False):
            raise ValueError(f"{where} has {key!r}, {quote(value)}; {reason}")


@cache  # the keys of all rows are the same few
def _words(key: str) -> list[str]:
    """The words of a key: of "tool_calls" and "toolCalls" they are the same."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", key)]


def _is_media(words: list[str]) -> bool:
    return not MEDIA.isdisjoint(words) and words[-1] not in ABOUT


def _is_other_image(words: list[str]) -> bool:
    others = [word for word in words if word not in IMAGES]
    return len(others) < len(words) and IMAGE_HOLDERS.issuperset(others) and words not in (["image"], ["images"])


def _is_mark(words: list[str]) -> bool:
    return not (LEARNED | NOT_LEARNED).isdisjoint(words) and words[-1] not in ABOUT


def _is_marked_other(words: list[str], value, is_answer: bool) -> bool:
    """Whether a mark says anything else than that answers are learned, and other turns are not."""
    if not _is_mark(words):
        return False
    values = [_truth(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    if None in values:  # no mark, but a text or a mapping
        return False
    is_learned, is_not_learned = not LEARNED.isdisjoint(words), not NOT_LEARNED.isdisjoint(words)
    if is_learned and is_not_learned:  # of a "loss_mask", nobody knows which of 0 and 1 is learned
        return True
    if not is_answer and not {"weight", "weights"}.isdisjoint(words) and values == [1]:
        return False  # the weight of every turn alike
    is_opposite = is_not_learned != (not OPPOSITE.isdisjoint(words))
    return any(item != (is_answer != is_opposite) for item in values)


def _truth(value) -> float | None:
    if isinstance(value, str):
        value = TRUTH.get(value.strip().lower())
    return value if isinstance(value, Number) else None
