# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Values in messages: an error that quotes a whole image in base64 hides what it says, and one that quotes an address
whole shows its password.
"""

import re
import reprlib

from flashsloth.image_reading_flashsloth import without_secrets


LIMIT = 300  # characters
SCHEME = r"[A-Za-z][\w+.-]{0,30}://"  # bounded: the search through a long text takes no quadratic time
# An address within a text ends at a space, or where another one is chained to it ("zip://a.png::https://host/a.zip").
ADDRESS = re.compile(rf"{SCHEME}(?:(?!::{SCHEME})\S)+")
CHAIN = re.compile(rf"::(?={SCHEME})")


def shorten(text: str, limit: int = LIMIT) -> str:
    """Leaves out the middle of a long text: names of files differ at the end, and errors end with the remedy."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def show_address(address: str) -> str:
    """An address, or a path, without the secrets that it may hold: user name, password, query and fragment."""
    return "::".join(map(without_secrets, CHAIN.split(address)))


def hide_secrets(text: str) -> str:
    """A text without the secrets of the addresses in it."""
    return ADDRESS.sub(lambda found: without_secrets(found[0]), text)


class _Quotes(reprlib.Repr):
    """Hides before it shortens: half of an address does not show where its password ends."""

    def repr_str(self, text: str, level: int) -> str:
        is_address = re.match(rf"\s*{SCHEME}", text)
        return super().repr_str(show_address(text) if is_address else hide_secrets(text), level)


quote = _Quotes().repr  # a short text of any value, without secrets
