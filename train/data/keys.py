# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What becomes of the keys of a raw row that hold no conversation. There are three kinds:

- A system prompt (`system`, `system_prompt` and the like) is learned with the row.
- A key that changes what the row means, but that training cannot follow, makes the row a broken one: videos and
  audio, tools and their calls, reasoning beside an answer, rejected answers, chat templates, images under another name
  than `images` and `image` (`image_path`, `image_0`, `file_name` of an image, `png`), prompts under another name than
  `system`, and marks of turns that are not to be learned (`loss`, `weight`, `train`, `mask`).
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
SYSTEM = {"system", "sys", "prompt", "message", "instruction", "instructions", "content"}
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# Keys of files of any kind: of images, if their names end so.
FILES = {"file", "files", "filename", "filenames", "filepath", "filepaths", "path", "paths"}
# Whole keys of images: those of WebDataset, and of chats.
OTHER_IMAGES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "media", "attachment", "attachments"}
IMAGES = {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"}
IMAGE_HOLDERS = {
    "path",
    "paths",
    "url",
    "urls",
    "uri",
    "file",
    "files",
    "bytes",
    "base64",
    "b64",
    "data",
    "list",
} | FILES
LEARNED = {"loss", "weight", "weights", "learn", "learned", "train", "trained", "training", "trainable", "supervised"}
NOT_LEARNED = {"mask", "masked", "masks", "ignore", "ignored", "skip", "skipped", "exclude", "excluded"}
OPPOSITE = {"no", "not", "dont", "without", "disable", "disabled"}

# Others by whole keys, since their words are common in metadata.
TOOLS = {
    *("tools", "available_tools", "tool_calls", "tool_call", "tool_call_id", "tool_choice", "tool_responses"),
    *("functions", "function_call", "function_calls"),
}
PREFERENCES = {"chosen", "rejected", "dispreferred"}
PREFERRED = {
    *("answer", "answers", "response", "responses", "message", "messages", "completion", "completions", "output"),
    *("outputs", "conversation", "conversations", "text", "texts", "content", "turn", "turns"),
}
OTHER_SYSTEM = {"instructions", "developer", "developer_message", "developer_prompt", "developer_instructions"}
# Marks that say which tokens or turns are learned: a mask of answers may mean either.
ANSWERS = {"assistant", "gpt", "label", "labels", "target", "targets", *PREFERRED}
TEMPLATES = {"chat_template", "chat_template_kwargs", "documents"}
REASONING = {
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking",
    "thinking_blocks",
    "thought",
    "thoughts",
    "think",
    "chain_of_thought",
}

KTO_FORMS = ("completion", "messages")

NO_MEDIA = "the model takes images and text only"
NO_TOOLS = "tools and their calls cannot be learned"
NO_PREFERENCES = "answers are learned, and none can be rejected"
NO_TEMPLATES = "every row has the model's own chat template"
NO_OTHER_SYSTEM = "it would be learned without: rename it to system, or write it into the question"
NO_REASONING = "the chat template has no place for it: write it into the answer"
NO_MARKS = (
    "turns cannot be marked: all answers of a row are learned alike, and nothing else. Remove the mark, or the row"
)
NO_OTHER_IMAGES = "it would be learned without: rename it to images or image"
NOT_HERE = "an image belongs to the row, in images or image, or into a part of the content"

TRUE, FALSE = ("true", "t", "yes", "y", "on"), ("false", "f", "no", "n", "off", "none", "null", "never")
TRUTH = dict.fromkeys(TRUE, True) | dict.fromkeys(FALSE, False)


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
        or _name(words) in TOOLS | TEMPLATES | REASONING | OTHER_SYSTEM | OTHER_IMAGES | {"file_name"}
        or _is_preference(words)
        or _is_media(words)
        or not FILES.isdisjoint(words)
        or _is_other_image(words)
        or _is_mark(words)
    )


def is_system(key: str) -> bool:
    """Whether a key of a row holds its system prompt."""
    words = _words(key)
    return words[:1] in (["system"], ["sys"]) and words != ["sys"] and SYSTEM.issuperset(words)


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
        kinds = {NO_TOOLS: _name(words) in TOOLS, NO_PREFERENCES: _is_preference(words)}
        kinds |= {NO_TEMPLATES: _name(words) in TEMPLATES, NO_OTHER_SYSTEM: _name(words) in OTHER_SYSTEM}
        kinds |= {NO_REASONING: _name(words) in REASONING and not isinstance(value, Number)}
        kinds |= {NO_MEDIA: _is_media(words) and not isinstance(value, Number)}
        kinds |= {NO_OTHER_IMAGES: _is_numbered_image(words) or not num_images and _is_image(words, value)}
        # A row's answers are learned, and a KTO row's completion is not if its label is false.
        kinds |= {NO_MARKS: _is_undesired(raw_row, key, value) or _is_marked_other(words, value, is_answer=True)}
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
        kinds = {NO_TOOLS: _name(words) in TOOLS, NO_REASONING: _name(words) in REASONING}
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


def _name(words: list[str]) -> str:
    return "_".join(words)


def _is_preference(words: list[str]) -> bool:
    others = [word for word in words if word not in PREFERENCES]
    return len(others) < len(words) and PREFERRED.issuperset(others)


def _is_undesired(raw_row: Mapping, key: str, value) -> bool:
    """Whether a row of KTO's form says that its answer is not desired; 0 may be a class elsewhere."""
    return key == "label" and (value is False or _truth(value) == 0 and not raw_row.keys().isdisjoint(KTO_FORMS))


def _is_media(words: list[str]) -> bool:
    return not MEDIA.isdisjoint(words) and words[-1] not in ABOUT


def _is_other_image(words: list[str]) -> bool:
    others = [word for word in _without_numbers(words) if word not in IMAGES]
    has_image = len(others) < len(_without_numbers(words))
    return has_image and IMAGE_HOLDERS.issuperset(others) and words not in (["image"], ["images"])


def _is_numbered_image(words: list[str]) -> bool:
    """Whether a key is one of several, such as `image1` and `image_0`: no other column has them all."""
    return _is_other_image(words) and _without_numbers(words) != words


def _without_numbers(words: list[str]) -> list[str]:
    stems = [word if word in IMAGE_HOLDERS else word.rstrip("0123456789") for word in words]
    return [stem for stem in stems if stem]


def _is_image(words: list[str], value) -> bool:
    """Whether a key holds an image, or is one of any file, such as `file_name`, and names an image."""
    if _is_other_image(words):
        return True
    if _name(words) in OTHER_IMAGES:
        return not isinstance(value, Number)
    names = value if isinstance(value, (list, tuple)) else [value]
    is_image = any(isinstance(name, str) and name.lower().endswith(IMAGE_ENDINGS) for name in names)
    return is_image and not FILES.isdisjoint(words)


def _is_mark(words: list[str]) -> bool:
    return not (LEARNED | NOT_LEARNED).isdisjoint(words) and words[-1] not in ABOUT


def _is_marked_other(words: list[str], value, is_answer: bool) -> bool:
    """Whether a mark says anything else than that answers are learned, and other turns are not."""
    if not _is_mark(words):
        return False
    items = list(_items(value))
    nested = [item.items() for item in items if isinstance(item, Mapping)]  # marks of parts of an answer
    if any(_is_marked_other(_words(str(key)), mark, is_answer) for marks in nested for key, mark in marks):
        return True
    values = [truth for item in items if (truth := _truth(item)) is not None]
    if not values:  # no mark, but a text
        return False
    is_learned, is_not_learned = not LEARNED.isdisjoint(words), not NOT_LEARNED.isdisjoint(words)
    if is_not_learned and (
        is_learned or not ANSWERS.isdisjoint(words)
    ):  # of a "loss_mask", nobody knows which of 0 and 1 is learned
        return True
    if not is_answer and not {"weight", "weights"}.isdisjoint(words) and values == [1]:
        return False  # the weight of every turn alike
    is_opposite = is_not_learned != (not OPPOSITE.isdisjoint(words))
    return any(item != (is_answer != is_opposite) for item in values)


def _items(value) -> Iterable:
    """The items of nested lists."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _items(item)
    else:
        yield value


def _truth(value) -> float | None:
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            value = TRUTH[text] if text in TRUTH else float(text)
        except ValueError:
            return None
    return value if isinstance(value, Number) else None
