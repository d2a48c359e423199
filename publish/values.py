# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Values that may stand in a model card: ids are checked, and all other text is escaped for Markdown. YAML needs no such
care, as a YAML library writes it.
"""

import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from flashsloth.folders.json_files import read_json


# ISO 639 codes, and two that the Hub adds (https://huggingface.co/docs/hub/model-cards).
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
COMMIT = re.compile(r"[0-9a-f]{40}")
# What Markdown may act on: all but letters, digits and plain punctuation. An underscore between letters is plain.
ACTIVE = re.compile(r"[^\w .,;%/+=?()'-]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
PLAIN = re.compile(r"[A-Za-z0-9_ .,/=:+%-]+")
URL = re.compile(r"https?://[A-Za-z0-9./_~#?&=%+:-]+")


def check_hub_id(value, what: str) -> str:
    """
    The id of a model or dataset on the Hub.

    Raises:
        ValueError: If it cannot be one.
    """
    try:
        validate_repo_id(value)
    except HFValidationError as error:
        raise ValueError(f"{what} {value!r} is not an id on the Hub such as owner/name: {error}") from error
    if not value:
        raise ValueError(f"{what} is empty; give an id on the Hub such as owner/name.")
    return value


def check_repo_id(value) -> str:
    """The id of the card's own repository. It needs an owner, as the card holds addresses within the repository."""
    check_hub_id(value, "The repository")
    if "/" not in value:
        raise ValueError(f"The repository {value!r} lacks its owner: name it as owner/name.")
    return value


@cache
def licenses() -> dict:
    """The ids of the licenses that the Hub knows, and the page that lists them."""
    return read_json(Path(__file__).parent / "licenses.json")


def check_license(value) -> str:
    """The id of a license that the Hub knows; `other` stands for all that it does not know."""
    ids = licenses()["ids"]
    if value not in ids:
        near = get_close_matches(str(value).lower(), ids)
        remedy = f"the nearest {'are' if len(near) > 1 else 'is'} {', '.join(near)}" if near else "such as mit"
        raise ValueError(
            f"{value!r} is not a license id of the Hub; {remedy}. {licenses()['source']} lists them all, and `other` "
            "stands for any other license."
        )
    return value


def check_language(value) -> str:
    """The code of a language, or "code" or "multilingual"."""
    if not isinstance(value, str) or not LANGUAGE.fullmatch(value):
        raise ValueError(f"{value!r} is not a language code of two or three lower-case letters, such as en (ISO 639).")
    return value


def check_commit(value, what: str) -> str:
    """The full hash of a commit."""
    if not isinstance(value, str) or not COMMIT.fullmatch(value):
        raise ValueError(f"{what} {value!r} is not a full commit hash of 40 hexadecimal digits.")
    return value


def check_url(value, what: str) -> str:
    """A web address of plain characters."""
    if not isinstance(value, str) or not URL.fullmatch(value):
        raise ValueError(f"{what} {value!r} is not a plain http(s) address.")
    return value


def markdown(value) -> str:
    """
    Text on one line, in which nothing acts as Markdown, HTML or mathematics: each character that might becomes a
    character reference, which Markdown takes as text only
    (https://spec.commonmark.org/0.31.2/#entity-and-numeric-character-references).
    """
    return ACTIVE.sub(lambda match: f"&#{ord(match[0])};", _on_one_line(value))


def code(value) -> str:
    """The same as a code span, if all characters are plain."""
    text = _on_one_line(value)
    return f"`{text}`" if PLAIN.fullmatch(text) else markdown(text)


def link(repo: str, kind: str = "") -> str:
    """A checked id on the Hub as a link; `kind` is "datasets/" for a dataset."""
    return f"[{markdown(repo)}](https://huggingface.co/{kind}{repo})"


def _on_one_line(value) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
