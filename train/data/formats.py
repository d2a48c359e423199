# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
One row of anybody's data as a conversation of this library. A row is told by its keys:

    messages            [{role, content}]; content is a string, or parts like {type: text, text: ...}, {type: image}
    prompt, completion  two strings, or two such lists
    conversations       LLaVA: [{from: human or gpt, value}], with `<image>` where an image stands
    texts               the_cauldron, FineVision: [{user, assistant}], the images before the first

Rows are taken as they are: what is wrong with one (an empty turn, an image too few) is for
`flashsloth.train.data.validate` to say. Only what is not in one of these forms is an error here.
"""

import reprlib
from collections.abc import Iterable


PLACEHOLDER = "<image>"
COLUMNS = ("messages", "prompt", "completion", "conversations", "texts")
FORMS = "messages, prompt and completion, conversations, or texts"
ROLES = {"human": "user", "gpt": "assistant"}


def conversation(record: dict, num_images: int, captions: bool = False) -> list[dict]:
    """
    The messages of a row: `[{"role": ..., "content": [{"type": "text" or "image", "text": ...}]}]`.

    In a string, `<image>` stands for an image where the user speaks, in LLaVA's form always and in the others if the
    row has images. A lone one moves to the front of its turn, as in LLaVA's and FlashSloth's published training;
    several stay where they are. Any other text that looks like a special token, and all in parts of type `text`, stays
    text.

    Args:
        record (`dict`): The row.
        num_images (`int`): How many images it has.
        captions (`bool`, *optional*, defaults to `False`): Leave the images alone of what the user says.

    Raises:
        ValueError: If the row is in none of the forms above, or one of its texts is no text.
    """
    given = {key: value for key, value in record.items() if value is not None}  # of united sets, forms take turns
    if "messages" in given:
        messages = _from_chat(given["messages"], num_images)
    elif "prompt" in given and "completion" in given:
        prompt = _as_chat(given["prompt"], "user")
        messages = _from_chat([*prompt, *_as_chat(given["completion"], "assistant")], num_images)
    elif "conversations" in given:
        messages = [_llava_message(turn) for turn in _dicts(given["conversations"], "conversations")]
    elif "texts" in given:
        messages = _from_chat(list(_question_turns(given["texts"])), num_images, has_placeholders=False)
    else:
        empty = [key for key in record if key not in given]
        nothing = f", and nothing in {', '.join(empty)}" if empty else ""
        raise ValueError(f"it has the columns {', '.join(given) or 'none'}{nothing}; it needs {FORMS}")
    if captions:
        for message in messages:
            if message["role"] == "user":
                message["content"] = [part for part in message["content"] if part["type"] == "image"]
    return messages


def num_characters(messages: list[dict]) -> int:
    """Length of all texts together."""
    return sum(len(part["text"] or "") for message in messages for part in message["content"])


def _from_chat(chat, num_images: int, has_placeholders: bool = True) -> list[dict]:
    chat = _dicts(chat, "messages")
    texts = [turn.get("content") for turn in chat if turn.get("role") == "user"]
    texts = [text for text in texts if isinstance(text, str)]
    has_placeholders = has_placeholders and num_images > 0 and any(PLACEHOLDER in text for text in texts)
    # Strings alone do not say where the images stand: before the first of them, as TRL has it.
    leading = 0 if has_placeholders or len(texts) < _count(chat, "user") else num_images
    messages = []
    for turn in chat:
        role, content = _get_word(turn, "role", "messages"), _get(turn, "content", "messages")
        if not isinstance(content, str):
            content = [part for given in _dicts(content or [], "content") for part in _part(given)]
        elif role == "user" and has_placeholders:
            content = _split(content)
        elif role == "user":
            content = [_image() for _ in range(leading)] + _text(content)
            leading = 0
        else:
            content = _text(content)
        messages.append({"role": role, "content": content})
    return messages


def _count(chat: list[dict], role: str) -> int:
    return sum(turn.get("role") == role for turn in chat)


def _as_chat(value, role: str) -> list[dict]:
    return [{"role": role, "content": value}] if isinstance(value, str) else _dicts(value, "prompt and completion")


def _question_turns(texts) -> Iterable[dict]:
    for pair in _dicts(texts, "texts"):
        yield {"role": "user", "content": _string(_get(pair, "user", "texts"))}
        yield {"role": "assistant", "content": _string(_get(pair, "assistant", "texts"))}


def _llava_message(turn: dict) -> dict:
    role, text = _get_word(turn, "from", "conversations"), _string(_get(turn, "value", "conversations"))
    role = ROLES.get(role, role)
    return {"role": role, "content": _split(text) if role == "user" else _text(text)}


def _split(text: str) -> list[dict]:
    """Text with placeholders as parts. The chat template breaks the line behind an image."""
    pieces = text.split(PLACEHOLDER)
    if len(pieces) == 1:
        return _text(text)
    if len(pieces) == 2:
        return [_image(), *_text("".join(pieces).strip())]
    parts = _text(pieces[0])
    for piece in pieces[1:]:
        parts += [_image(), *_text(piece.lstrip("\n"))]
    return parts


def _text(text: str) -> list[dict]:
    return [{"type": "text", "text": text}] if text.strip() else []


def _image() -> dict:
    return {"type": "image", "text": None}


def _part(part: dict) -> list[dict]:
    kind = _get_word(part, "type", "content")
    if kind in ("image", "image_url"):
        return [_image()]
    return _text(_string(part.get("text"))) if kind == "text" else [{"type": kind, "text": None}]


def _string(text) -> str:
    if text is not None and not isinstance(text, str):
        raise ValueError(f"one of its texts is {reprlib.repr(text)}; write it as a string")
    return text or ""


def _dicts(value, column: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"its {column!r} is {reprlib.repr(value)}; it has to be a list of mappings")
    return value


def _get(mapping: dict, key: str, column: str):
    if key not in mapping:
        raise ValueError(f"an entry of its {column!r} has the keys {', '.join(mapping)}; it needs {key!r}")
    return mapping[key]


def _get_word(mapping: dict, key: str, column: str) -> str:
    word = _get(mapping, key, column)
    if not isinstance(word, str):
        raise ValueError(f"an entry of its {column!r} has the {key} {reprlib.repr(word)}; write it as a string")
    return word
