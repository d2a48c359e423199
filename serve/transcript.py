# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A conversation as a file: JSON, whose messages the processor takes again, or Markdown to read."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashsloth.arguments import without_secrets
from flashsloth.assistant.answer import Answer


@dataclass(frozen=True)
class Turn:
    """
    A question and its answer.

    Args:
        question (`str`): The question.
        images (`tuple[str, ...]`): Files and addresses of the images that came with it.
        hd (`bool`): Whether these were processed in high definition.
        answer ([`Answer`]): The answer.
    """

    question: str
    images: tuple[str, ...]
    hd: bool
    answer: Answer


def save(file: Path, model: str, system: str | None, turns: Sequence[Turn]) -> None:
    """
    Writes a conversation. User names, passwords and queries of addresses are left out.

    Args:
        file (`Path`): A file that does not exist, and ends in `.json` or `.md`.
        model (`str`): The model's name.
        system (`str`, *optional*): The system prompt, if it is not the published one.
        turns (`Sequence[Turn]`): The conversation.

    Raises:
        ValueError: If there is nothing to write, the name has another end, the file exists, or it cannot be written.
    """
    write: dict[str, Callable] = {".json": _json, ".md": _markdown}
    if file.suffix.lower() not in write:
        raise ValueError(f"'{file}' does not say how to write the conversation: end it in .json or .md.")
    if not turns:
        raise ValueError("There is nothing to write yet: ask something.")
    text = write[file.suffix.lower()](model, system, turns)
    try:
        with open(file, "x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError as error:
        raise ValueError(f"'{file}' exists, and is not overwritten: choose another name.") from error
    except OSError as error:
        raise ValueError(f"'{file}' cannot be written ({error.strerror}): choose another place.") from error


def _json(model: str, system: str | None, turns: Sequence[Turn]) -> str:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for turn in turns:
        parts = [*map(_image_part, turn.images), {"type": "text", "text": turn.question}]
        messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": turn.answer.text}]
    about = [{"hd": turn.hd, "finish_reason": turn.answer.finish_reason} for turn in turns]
    conversation = {"model": model, "messages": messages, "turns": about}
    return json.dumps(conversation, indent=2, ensure_ascii=False) + "\n"


def _image_part(name: str) -> dict[str, str]:
    place = _place(name)
    return {"type": "image", "url" if _is_address(name) else "path": place}


def _markdown(model: str, system: str | None, turns: Sequence[Turn]) -> str:
    parts = [f"# A conversation with {model}"]
    if system is not None:
        parts += ["## System", system]
    for turn in turns:
        parts += ["## Question", *(f"![]({_destination(name)})" for name in turn.images), turn.question]
        stopped = {"interrupted": "*It was stopped.*", "length": "*It was cut.*"}.get(turn.answer.finish_reason)
        parts += ["## Answer", turn.answer.text, *([stopped] if stopped else [])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _destination(name: str) -> str:
    """A link as Markdown has it (https://spec.commonmark.org/0.31.2/#link-destination), with any character in it."""
    escaped = _place(name).replace("\\", "\\\\").replace("<", "\\<").replace(">", "\\>")
    return f"<{escaped}>"


def _is_address(name: str) -> bool:
    return name.lower().startswith(("http://", "https://", "data:"))


def _place(name: str) -> str:
    """An address without secrets, or the whole path of a file: the conversation may be read elsewhere."""
    return without_secrets(name) if _is_address(name) else str(Path(name).absolute())
