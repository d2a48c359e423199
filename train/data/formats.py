# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
One raw row of anybody's data as a row of this library. The keys of a raw row say which form it has:

    messages            [{role, content}]; content is a string, or parts like {type: text, text: ...}, {type: image}
    prompt, completion  two strings, or two such lists
    conversations       LLaVA: [{from: human or gpt, value}], with `<image>` where an image stands
    texts               the_cauldron, FineVision: [{user, assistant}], the images before the first
    question, answer    two strings, the images before the first; also query and response, instruction and response,
                        and Alpaca's instruction, input and output

Its images are in `images` or `image`, or in the parts of a content: paths, URLs, base64, the bytes of files, or
mappings of `bytes` and `path`. A system prompt in a key of its own becomes the first message.
`flashsloth.train.data.keys` says what becomes of all other keys.

A raw row that has none of these forms becomes a row with a `problem`. Everything else that may be wrong with a row (an
empty turn, a missing image) is found later, by `flashsloth.train.data.validate`.
"""

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from urllib.parse import urlparse
from urllib.request import url2pathname

import PIL.Image
from datasets import Features, Image, List, Value

from flashsloth.processing_flashsloth import IMAGE_TYPES
from flashsloth.train.data.keys import check_row, check_turn, is_empty, is_system
from flashsloth.train.data.wording import hide_secrets, quote, shorten


MESSAGES = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
# Images stay files until a batch is made of them. `length` is the number of characters of all texts: rows of similar
# length are batched without a tokenizer. `problem` says why a raw row could not be converted; it has no messages then.
FEATURES = Features(
    {
        "id": Value("string"),
        "images": List(Image(decode=False)),
        "messages": MESSAGES,
        "num_images": Value("int32"),
        "length": Value("int32"),
        "problem": Value("string"),
    }
)
# Part of the key of every cache. Raise it when raw rows are converted in another way, or old caches will be read.
FORMAT = 4

PLACEHOLDER = "<image>"
OTHER_PLACEHOLDERS = ("<video>", "<audio>")
TEXT_COLUMNS = ("messages", "prompt", "completion", "conversations", "texts")
# Columns of a question and of its answer.
QUESTIONS = (
    ("question", "answer"),
    ("query", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
    ("prompt", "response"),
)
# Columns that belong to such a question, and that no form has a place for.
OF_A_QUESTION = ("context", "passage", "choices", "options", "hint", "history", "input")
IMAGE_COLUMNS = ("images", "image")
# The text is in the fingerprint of data that has such rows: it stays as it is.
FORMS = "messages, prompt and completion, conversations, or texts"
ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}

# Where a part of a content holds its image, and where those of others hold it.
PART_IMAGES = ("image", "path", "url", "image_url", "base64", "bytes")
OTHER_PART_IMAGES = ("source", "data", "file", "file_id", "content")
# Strings that begin so are the base64 of a JPEG, PNG, GIF or WebP file, if they are base64.
BASE64_BEGINNINGS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")


def make_row(raw_row, index: int | str, folder: str, captions: bool) -> dict:
    """
    Converts a raw row.

    Args:
        raw_row (`Mapping`): In one of the forms above. Anything else gives a row whose `problem` says what is wrong.
        index (`int` or `str`): The id of the row if it has no `id`.
        folder (`str`): Where relative paths of images start.
        captions (`bool`): Whether to remove the texts of the user and leave the images alone.

    Returns:
        `dict`: The columns of `FEATURES`.
    """
    if not isinstance(raw_row, Mapping):
        problem = f"it is {quote(raw_row)}; a row is a mapping of names to values"
        return {"images": [], **make_text_columns({}, index, 0, captions, problem)}
    images, problem = [], None
    try:
        images = [_image(image, folder) for image in _images(raw_row)]
    except ValueError as error:
        problem = f"{error}"
    return {"images": images, **make_text_columns(raw_row, index, len(images), captions, problem)}


def make_text_columns(
    raw_row: Mapping, index: int | str, num_images: int, captions: bool, problem: str | None = None
) -> dict:
    """
    Converts all of a raw row but its images.

    Args:
        num_images (`int`): How many images it has.
        problem (`str`, *optional*): What is wrong with its images.

        The others are those of [`make_row`].
    """
    messages = []
    if problem is None:
        try:
            messages = conversation(raw_row, num_images, captions)
            json.dumps(messages, ensure_ascii=False).encode()  # a lone surrogate cannot be stored
        except (ValueError, RecursionError) as error:
            messages, problem = [], f"{error}"
    name = index if raw_row.get("id") is None else raw_row["id"]
    return {
        "id": _storable(str(name)),
        "messages": messages,
        "num_images": num_images,
        "length": sum(len(part["text"] or "") for message in messages for part in message["content"]),
        "problem": None if problem is None else shorten(hide_secrets(_storable(problem))),
    }


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


# Images


def _images(raw_row: Mapping) -> list:
    """The images of a raw row as they are there: in a column, or in the parts of its content."""
    columns = {name: _as_list(raw_row[name]) for name in IMAGE_COLUMNS if name in raw_row}
    columns["the parts of its content"] = list(_images_of_parts(raw_row))
    filled = {name: images for name, images in columns.items() if images}
    first, *others = filled.values() or [[]]
    # Some sets have all images twice, in a column and in the parts.
    if others and ("images" in filled and "image" in filled or any(images != first for images in others)):
        raise ValueError(f"it has images in both {' and '.join(filled)}; it needs them in one of these")
    return first


def _images_of_parts(raw_row: Mapping) -> Iterable:
    chats = (raw_row.get(name) for name in ("messages", "prompt", "completion"))
    if raw_row.get("messages") is not None:
        chats = [raw_row["messages"]]
    for turn in (turn for chat in chats if isinstance(chat, list) for turn in chat if isinstance(turn, Mapping)):
        for part in turn["content"] if isinstance(turn.get("content"), list) else ():
            if isinstance(part, Mapping) and part.get("type") in IMAGE_TYPES:
                yield from _image_of_part(part)


def _image_of_part(part: Mapping) -> Iterable:
    """The image of a part, if it has one: otherwise it stands for one in the row's column."""
    held = {key: part[key] for key in PART_IMAGES if not is_empty(part.get(key))}
    if len(held) > 1 and "bytes" not in held:
        raise ValueError(f"a part of type {part['type']!r} has both {' and '.join(held)}; it needs one of these")
    for key, image in held.items():
        if key == "bytes" and "path" in held:
            yield {"bytes": image, "path": held["path"]}
            return
        if isinstance(image, Mapping) and "url" in image:  # of OpenAI's form
            image = image["url"]
        yield _from_base64(image) if key == "base64" and isinstance(image, str) else image


def _as_list(images) -> list:
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _image(image, folder: str) -> dict | None:
    if image is None:
        return None
    if isinstance(image, PIL.Image.Image):
        return Image().encode_example(image)
    content, path = image, image
    if isinstance(image, str) and _has_scheme(image, "data:"):
        content = _from_base64(image)
    elif isinstance(image, str) and image.startswith(BASE64_BEGINNINGS):
        content = _base64_or_path(image)
    elif isinstance(image, Mapping):
        content, path = image.get("bytes"), image.get("path")
    if isinstance(content, bytes):
        is_name = isinstance(path, str) and path is not image
        return {"bytes": content, "path": path if is_name else None}
    if isinstance(path, str):
        return {"bytes": None, "path": _absolute(path, folder)}
    if isinstance(image, Mapping) and content is None and path is None and image.keys() & {"bytes", "path"}:
        return None
    raise ValueError(f"an image is {quote(image)}; it has to be a path, a URL or the file's bytes")


def _has_scheme(address: str, scheme: str) -> bool:
    """Whether an address begins with a scheme, in capitals or not."""
    return address[: len(scheme)].lower() == scheme


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2] if _has_scheme(text, "data:") else text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"an image is {quote(text)}, which is no base64: {error}") from error


def _base64_or_path(text: str) -> bytes | str:
    """A file's bytes, if the text is its base64, and not a path that begins alike."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text


def _absolute(path: str, folder: str) -> str:
    path.encode()  # fails on half of a surrogate pair, which cannot be stored
    if _has_scheme(path, "file://"):
        return url2pathname(urlparse(path).path)
    return path if "://" in path else os.path.join(folder, path)


# Messages


def conversation(raw_row: Mapping, num_images: int, captions: bool = False) -> list[dict]:
    """
    The messages of a raw row: `[{"role": ..., "content": [{"type": "text" or "image", "text": ...}]}]`.

    In a string of the user, `<image>` stands for an image: always in LLaVA's form, and in `messages` and
    `prompt, completion` if the row has images. A single image moves to the front of its turn, as in the published
    training of LLaVA and FlashSloth; several images stay where they are. Everything else that looks like a special
    token stays text, as do all parts of type `text`.

    Args:
        raw_row (`Mapping`): The raw row.
        num_images (`int`): How many images it has.
        captions (`bool`, *optional*, defaults to `False`): Whether to remove the texts of the user and leave the
            images alone.

    Raises:
        ValueError: If the raw row has none of the forms above, or one of its texts is no text.
    """
    # `datasets` fills the columns of sets that it unites: a row has only one of the forms, the others are None.
    given = {key: value for key, value in raw_row.items() if value is not None}
    check_row(given, (*TEXT_COLUMNS, *IMAGE_COLUMNS), num_images)
    _refuse_two_forms(given)
    if "messages" in given:
        messages = _from_chat(given["messages"], num_images)
    elif "prompt" in given and "completion" in given:
        prompt = _as_chat(given["prompt"], "user")
        messages = _from_chat([*prompt, *_as_chat(given["completion"], "assistant")], num_images)
    elif "conversations" in given:
        messages = [_from_llava(turn, index) for index, turn in _turns(given["conversations"], "conversations")]
    elif "texts" in given:
        messages = _from_chat(list(_from_pairs(given["texts"])), num_images, has_placeholders=False)
    elif pair := question_columns(given):
        messages = _from_chat(_from_question(given, *pair), num_images)
    else:
        empty = [key for key in raw_row if key not in given]
        nothing = f", and nothing in {', '.join(empty)}" if empty else ""
        raise ValueError(f"it has the columns {', '.join(given) or 'none'}{nothing}; it needs {FORMS}")
    messages = _with_system_prompt(messages, given)
    if captions:
        for message in messages:
            if message["role"] == "user":
                message["content"] = [part for part in message["content"] if part["type"] == "image"]
    return messages


def _refuse_two_forms(given: Mapping) -> None:
    """Columns of questions and answers beside another form are metadata, as is a prompt without a completion."""
    forms = [name for name in ("messages", "conversations", "texts") if not is_empty(given.get(name))]
    if not is_empty(given.get("prompt")) and not is_empty(given.get("completion")):
        forms.append("prompt and completion")
    if len(forms) > 1:
        raise ValueError(f"it has a conversation in both {' and '.join(forms[:2])}; it needs one of these")


def question_columns(columns: Iterable[str]) -> tuple[str, str] | None:
    """The first pair of `QUESTIONS` whose columns are all there."""
    return next((pair for pair in QUESTIONS if set(pair) <= set(columns)), None)


def _with_system_prompt(messages: list[dict], given: Mapping) -> list[dict]:
    prompts = {key: value for key, value in given.items() if is_system(key) and not is_empty(value)}
    for key, prompt in prompts.items():
        content = _text_parts(_string(prompt))
        if messages[:1] and messages[0]["role"] == "system":
            if messages[0]["content"] != content:
                raise ValueError(f"it has two system prompts: one in {key!r}, and {quote(messages[0]['content'])}")
        else:
            messages = [{"role": "system", "content": content}, *messages]
    return messages


def _from_chat(chat, num_images: int, has_placeholders: bool = True) -> list[dict]:
    chat = [turn for _, turn in _turns(chat, "messages")]
    contents = [turn.get("content") for turn in chat if turn.get("role") == "user"]
    texts = [content for content in contents if isinstance(content, str)]
    if has_placeholders:
        _refuse_other_placeholders(texts)
    has_placeholders = has_placeholders and num_images > 0 and any(PLACEHOLDER in text for text in texts)
    # Strings alone do not say where the images stand: they go before the first one, as in TRL.
    num_leading = 0 if has_placeholders or len(texts) < len(contents) else num_images
    messages = []
    for index, turn in enumerate(chat):
        role = _get_word(turn, "role", "messages")
        role, content = "system" if role == "developer" else role, _get(turn, "content", "messages")
        check_turn(turn, ("role", "content"), f"message {index}", role == "assistant")
        if not isinstance(content, str):
            where = f"message {index}"
            content = [part for given in _dicts(content or [], "content") for part in _part(given, where, role)]
        elif role == "user" and has_placeholders:
            content = _split(content)
        elif role == "user":
            content = [_image_part() for _ in range(num_leading)] + _text_parts(content)
            num_leading = 0
        else:
            content = _text_parts(content)
        messages.append({"role": role, "content": content})
    _refuse_other_order(chat)
    return messages


def _turns(chat, column: str) -> Iterable[tuple[int, dict]]:
    return enumerate(_dicts(chat, column))


def _as_chat(value, role: str) -> list[dict]:
    return [{"role": role, "content": value}] if isinstance(value, str) else _dicts(value, "prompt and completion")


def _from_pairs(pairs) -> Iterable[dict]:
    for index, pair in _turns(pairs, "texts"):
        check_turn(pair, ("user", "assistant"), f"entry {index} of its 'texts'", is_answer=True)
        yield {"role": "user", "content": _string(_get(pair, "user", "texts"))}
        yield {"role": "assistant", "content": _string(_get(pair, "assistant", "texts"))}


def _from_question(given: Mapping, question: str, answer: str) -> list[dict]:
    texts = [_string(given[question])]
    for key in OF_A_QUESTION:
        if key in (question, answer) or is_empty(given.get(key)):
            continue
        if (question, key) != ("instruction", "input"):
            raise ValueError(f"it has {key!r}, {quote(given[key])}, beside {question!r}; write it into the {question}")
        texts.append(_string(given[key]))
    return [
        {"role": "user", "content": "\n".join(texts)},
        {"role": "assistant", "content": _string(given[answer])},
    ]


def _from_llava(turn: dict, index: int) -> dict:
    role, text = _get_word(turn, "from", "conversations"), _string(_get(turn, "value", "conversations"))
    role = ROLES.get(role, role)
    check_turn(turn, ("from", "value"), f"message {index}", role == "assistant")
    if role != "user":
        return {"role": role, "content": _text_parts(text)}
    _refuse_other_placeholders([text])
    return {"role": role, "content": _split(text)}


def _refuse_other_placeholders(texts: list[str]) -> None:
    for placeholder in OTHER_PLACEHOLDERS:
        if any(placeholder in text for text in texts):
            raise ValueError(
                f"a question has {placeholder}, but the model takes images and text only; if these are words, write "
                "the question as a part of type 'text'"
            )


def _refuse_other_order(chat: list[dict]) -> None:
    """Some sets number the images of their parts, but their order is what decides."""
    contents = [turn["content"] for turn in chat if isinstance(turn["content"], list)]
    parts = [part for content in contents for part in content if part["type"] in IMAGE_TYPES]
    numbers = [part["index"] for part in parts if isinstance(part.get("index"), int)]
    if numbers != sorted(numbers) or len(set(numbers)) != len(numbers):
        raise ValueError(f"its parts name the images {quote(numbers)}; they have to be in order, each once")


def _split(text: str) -> list[dict]:
    """The parts of a text with placeholders. The chat template breaks the line behind an image."""
    pieces = text.split(PLACEHOLDER)
    if len(pieces) == 1:
        return _text_parts(text)
    if len(pieces) == 2:
        return [_image_part(), *_text_parts("".join(pieces).strip())]
    parts = _text_parts(pieces[0])
    for piece in pieces[1:]:
        parts += [_image_part(), *_text_parts(piece.lstrip("\n"))]
    return parts


def _part(part: dict, where: str, role: str) -> list[dict]:
    kind = _get_word(part, "type", "content")
    read = ("type", "text", *PART_IMAGES) if kind in IMAGE_TYPES else ("type", "text")
    check_turn(part, read, f"a part of {where}", role == "assistant")
    if kind in IMAGE_TYPES:
        if not is_empty(part.get("text")):
            value = quote(part["text"])
            raise ValueError(f"a part of {where} is an image and has the text {value}; it needs a part for each")
        for key in OTHER_PART_IMAGES:
            if not is_empty(part.get(key)):
                value = quote(part[key])
                raise ValueError(f"a part of {where} has the image in {key!r}, {value}; it needs {PART_IMAGES[0]!r}")
        return [_image_part()]
    return _text_parts(_string(part.get("text"))) if kind == "text" else [{"type": kind, "text": None}]


def _text_parts(text: str) -> list[dict]:
    return [{"type": "text", "text": text}] if text.strip() else []


def _image_part() -> dict:
    return {"type": "image", "text": None}


def _string(text) -> str:
    if text is not None and not isinstance(text, str):
        raise ValueError(f"one of its texts is {quote(text)}; write it as a string")
    return text or ""


def _dicts(value, column: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"its {column!r} is {quote(value)}; it has to be a list of mappings")
    return value


def _get(mapping: dict, key: str, column: str):
    if key not in mapping:
        raise ValueError(f"an entry of its {column!r} has the keys {', '.join(mapping)}; it needs {key!r}")
    return mapping[key]


def _get_word(mapping: dict, key: str, column: str) -> str:
    word = _get(mapping, key, column)
    if not isinstance(word, str):
        raise ValueError(f"an entry of its {column!r} has the {key} {quote(word)}; write it as a string")
    return word
