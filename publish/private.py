# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What must not leave the machine together with a model: paths of its file system, access tokens, and passwords and
signatures in addresses. Notes are uploaded without them; in any other file they are named, with their place.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath


# Access tokens by the prefixes of their makers: Hugging Face, GitHub, AWS, OpenAI and Anthropic.
TOKEN = re.compile(
    r"\b(?:(?:hf|api_org)_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|AKIA[A-Z0-9]{16}"
    r"|sk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,})"
)
# They end at the last "@" before the path: each of them may hold one, as users do who are named by their address.
USER_IN_URL = re.compile(r"(?<=://)[^/\s\"]+@")
PASSWORD_IN_URL = re.compile(r"://[^/\s\":]*:[^/\s\"]+@")
SIGNED_QUERY = re.compile(
    r"(https?://[^\s?'\"]+)\?[^\s'\"]*(?:signature|credential|token|secret|password|api_?key|\bsig=)[^\s'\"]*",
    flags=re.IGNORECASE,
)
# An absolute path within a sentence, not within a URL. Its last part stays.
ABSOLUTE_PATH = re.compile(
    r"(?<![\w./\\~-])(?:file://[^\s/]*|~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:<>|]+[/\\])+(?=[^\s/\\'\",;:<>|])"
)
HOME = re.compile(r"~[\w.-]*[/\\]")
USER_FOLDER = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\Users\\)[^/\\]+[/\\]?")  # whose last part is a user's name
# Fields in which a path that starts at the working folder is one of this machine, and no repository's name.
NAME_FIELDS = ("_name_or_path", "name_or_path")


def without_private(value):
    """The same JSON value without secrets, in which only the last part of each absolute path is left."""
    if isinstance(value, dict):
        return {key: without_private(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_private(item) for item in value]
    if not isinstance(value, str):
        return value
    value = without_secrets(value)
    if USER_FOLDER.fullmatch(value):
        return "~"
    if is_local_path(value):  # as a whole it may contain spaces
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return ABSOLUTE_PATH.sub("", value)


def without_secrets(text: str) -> str:
    """A text without tokens, and without user names, passwords and signatures in its addresses."""
    return SIGNED_QUERY.sub(r"\1", USER_IN_URL.sub("", TOKEN.sub("<token>", text)))


def has_secret(text: str) -> bool:
    """Whether a text holds a token, or an address with a password."""
    return TOKEN.search(text) is not None or PASSWORD_IN_URL.search(text) is not None


def is_local_path(value: str) -> bool:
    """Whether a text as a whole is an absolute path of some system, or one in a home folder."""
    if "\n" in value:
        return False
    path = PurePosixPath(value)
    is_posix = path.is_absolute() and len(path.parts) > 2  # "/" and "/x" are no place that says anything
    return is_posix or PureWindowsPath(value).is_absolute() or HOME.match(value) is not None or value[:7] == "file://"


def local_paths(value, place: str = "") -> Iterator[tuple[str, str]]:
    """Place (such as `text_config._name_or_path`) and value of each local path in a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from local_paths(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from local_paths(item, place)
    elif isinstance(value, str):
        is_name = place.rpartition(".")[2] in NAME_FIELDS
        if is_local_path(value) or (is_name and value.startswith(("./", "../", ".\\", "..\\"))):
            yield place, value
