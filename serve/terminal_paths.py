# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Names of files as they reach a terminal: typed, completed, or dropped there, which types them in quotes, with
backslashes or as `file://` addresses.
"""

import os
import re
import shlex
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from flashsloth.folders.downloads import IMAGE_SUFFIXES


FILE_URL = "file://"
# A word as shells have them: pieces in quotes, characters behind a backslash, and others.
WORD = re.compile(r"""\s*((?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+)(?=\s|$)""")


def file_names(text: str) -> list[str]:
    """
    The names in what stands behind a command. A text that is the name of a file as a whole is one name, so that spaces
    need no quotes.

    Raises:
        ValueError: If a quote is not closed.
    """
    text = text.strip()
    if os.path.isfile(expanded(text)):
        return [expanded(text)]
    names, end = [], 0
    while end < len(text):
        word = WORD.match(text, end)
        if word is None:
            raise ValueError(f"A quote is not closed in {text[end:].strip()}: close it, or put a backslash before it.")
        names.append(_name(word[1]))
        end = word.end()
    return names


def expanded(name: str) -> str:
    """A name with `~` as the home folder, and a `file://` address as its path."""
    if name.lower().startswith(FILE_URL):
        return url2pathname(urlparse(name).path)
    return os.path.expanduser(name)


def dropped_images(line: str) -> tuple[list[str], str]:
    """
    The image files that a line begins with, and what follows them. Files that are named from the working folder count
    only where nothing follows them: there they may be the first word of a question.
    """
    names, end = [], 0
    while word := WORD.match(line, end):
        name = _name(word[1])
        if not is_image_name(name) or not os.path.isfile(name):
            break
        names.append(name)
        end = word.end()
    rest = line[end:].strip()
    if rest and not all(map(os.path.isabs, names)):
        return [], line
    return names, rest


def is_image_name(name: str) -> bool:
    """Whether a name ends as those of images do."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _name(word: str) -> str:
    return expanded(shlex.split(word)[0])
