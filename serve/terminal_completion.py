# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What the Tab key makes of a line: commands, their words, and names of files, in quotes or with backslashes."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


SPECIAL = re.compile(r"[\s'\"\\]")  # characters that a word without quotes has behind a backslash


@dataclass(frozen=True)
class Completion:
    """
    What can be completed.

    Args:
        commands (`Sequence[str]`): All commands, which begin with a slash.
        suffixes (`Mapping[str, Sequence[str]]`): Commands that take names of files, and how these files end.
        words (`Mapping[str, Sequence[str]]`): Commands that take one of some words.
    """

    commands: Sequence[str]
    suffixes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def candidates(self, line: str) -> list[str]:
        """
        How a line can go on.

        Args:
            line (`str`): The line up to the cursor.

        Returns:
            `list[str]`: Whole lines, each beginning as `line` does.
        """
        command, space, rest = line.partition(" ")
        if not space:
            takes_more = {*self.suffixes, *self.words}
            found = [name for name in self.commands if name.startswith(command) and command.startswith("/")]
            return [f"{name} " if name in takes_more else name for name in found]
        if command in self.suffixes:
            start, quote = _open_word(rest)
            names = _files(rest[start:], quote, self.suffixes[command])
            return [f"{command} {rest[:start]}{name}" for name in names]
        return [f"{command} {word}" for word in self.words.get(command, ()) if word.startswith(rest)]


def _open_word(text: str) -> tuple[int, str]:
    """Where the last word of a text begins, and the quote in which the text ends, if it does."""
    start, quote, index = 0, "", 0
    while index < len(text):
        letter = text[index]
        if letter == "\\" and quote != "'":
            index += 1  # what follows has no meaning of its own
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter.isspace():
            start = index + 1
        index += 1
    return start, quote


def _files(word: str, quote: str, suffixes: Sequence[str]) -> list[str]:
    """The folders and files that a word can become, spelled as it is."""
    try:
        typed = "".join(shlex.split(word + quote))
    except ValueError:  # it ends in a backslash, whose character is still to come
        return []
    if typed.startswith("~") and "/" not in typed:
        return ["~/"]
    folder, beginning = os.path.split(os.path.expanduser(typed))
    before = word[: word.rfind("/") + 1] or (quote if word.startswith(quote) else "")
    names = []
    for entry in _entries(folder or "."):
        is_hidden = entry.name.startswith(".") and not beginning.startswith(".")
        if not entry.name.startswith(beginning) or is_hidden:
            continue
        if entry.is_dir():
            names.append(f"{before}{_spelled(entry.name, quote)}/")
        elif entry.name.lower().endswith(tuple(suffixes)):
            names.append(f"{before}{_spelled(entry.name, quote)}{quote} ")
    return sorted(names)


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # no such folder, or a forbidden one: nothing in it can be named
        return []


def _spelled(name: str, quote: str) -> str:
    if quote == "'":
        return name
    return (re.compile(r'["\\]') if quote else SPECIAL).sub(lambda found: f"\\{found[0]}", name)
