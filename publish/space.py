# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A Space to the Hub: the folder that `flashsloth demo --space` wrote, and what its owner added. What is uploaded by
mistake stays in the repository's history, so that secrets, paths of this machine and files that may run code are
refused, as they are for a model.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import HfApi, get_token
from huggingface_hub.constants import DEFAULT_REVISION, REPOCARD_NAME
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from transformers.utils import CONFIG_NAME

from flashsloth.folders.exported import is_exported
from flashsloth.folders.new_folder import UNFINISHED_NAME
from flashsloth.publish.connection import clear_errors, redact, redacted_logs, retried
from flashsloth.publish.private import USER_FOLDER, has_secret, local_paths
from flashsloth.publish.unwanted import LEFTOVERS, ORIGINAL_CONFIG, PICKLES, SETTINGS, leave_out_what_is_private
from flashsloth.publish.upload import LocalFile, Upload, check_target
from flashsloth.publish.values import check_repo_id


MESSAGE = "Upload FlashSloth demo"
REQUIREMENTS_FILE = "requirements.txt"
# By the SDK of a Space that `flashsloth demo --space` wrote: the files by which the Hub runs it, beside its app file.
SDKS = {"gradio": [REQUIREMENTS_FILE], "static": []}
APP_FILES = {"gradio": "app.py", "static": "index.html"}
# Folders that `flashsloth demo --space` writes. What a new Space lacks of them is removed from the old one.
OWN_FOLDERS = ("flashsloth/", "models/", "model/")
BY_PRODUCTS = {"__pycache__", ".gradio"}  # of a Space that was run in its folder
HIDDEN_FILES = {".gitattributes", ".gitignore"}
TEXTS = (".py", ".md", ".txt", ".json", ".jinja", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".csv")
TEXTS += (".html", ".css", ".js")


def read_space(folder) -> dict[str, Path | bytes]:
    """
    Checks a Space's folder, without running its code.

    Args:
        folder (`str` or `os.PathLike`): The folder.

    Returns:
        `dict[str, Path | bytes]`: By path in the repository, the file, or its content where it differs from the
        folder's.

    Raises:
        ValueError: If it is no Gradio or static Space, or holds a file that must not be uploaded. The message names
            all of these problems at once.
    """
    folder = Path(folder)
    _check_kind(folder)
    files: dict[str, Path | bytes] = {}
    problems = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink() or BY_PRODUCTS.intersection(name.split("/")):
            continue
        problem = _what_is_wrong(path, folder)
        if problem:
            problems.append(f"{name} {problem}")
            continue
        files[name] = path
        if path.name == CONFIG_NAME:
            cleaned = {CONFIG_NAME: path}
            leave_out_what_is_private(cleaned)
            files[name] = cleaned[CONFIG_NAME]
        problems += (f"{name} {problem}" for problem in _what_it_tells(path))
    if problems:
        raise ValueError(f"{folder} cannot be uploaded: {'; '.join(problems)}.")
    return files


def push_space(
    folder,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = MESSAGE,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """
    Uploads a Space in one commit. The Hub builds and starts it then.

    Args:
        folder (`str` or `os.PathLike`): The folder, see [`read_space`].
        repo_id (`str`), private (`bool`, *optional*), revision (`str`, *optional*), create_pr (`bool`, *optional*),
            message (`str`, *optional*), endpoint (`str`, *optional*), token (`str`, *optional*): See
            [`~flashsloth.publish.hub.push`].

    Returns:
        `str`: The URL of the Space, of the branch or of the pull request.

    Raises:
        ValueError: If the folder cannot be uploaded, or the Hub refuses it.
        OSError: If the Hub or the connection fails in several attempts.
    """
    check_repo_id(repo_id)
    check_target(revision, create_pr, message)
    files = {path: LocalFile(content) for path, content in read_space(folder).items()}
    token = token or get_token()
    upload = Upload(
        HfApi(endpoint=endpoint, token=token),
        repo_id,
        files,
        card={},
        private=private,
        revision=revision or DEFAULT_REVISION,
        create_pr=create_pr,
        message=message,
        repo_type="space",
        is_ours=lambda path: path.startswith(OWN_FOLDERS),
    )
    with redacted_logs(token), clear_errors(repo_id, token):
        user = retried(upload.check_rights)
        return redact(retried(lambda: upload.run(user)), token)


def preview_space(folder, repo_id: str) -> dict[str, int]:
    """
    What a push would upload, without the network.

    Args:
        folder (`str` or `os.PathLike`), repo_id (`str`): See [`push_space`].

    Returns:
        `dict[str, int]`: The size of each file in bytes, by path.

    Raises:
        ValueError: As [`read_space`].
    """
    check_repo_id(repo_id)
    return {path: LocalFile(content).size for path, content in read_space(folder).items()}


def _check_kind(folder: Path) -> None:
    """
    Raises:
        ValueError: If the folder is no Gradio or static Space.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name one that flashsloth demo --space wrote.")
    if UNFINISHED_NAME.search(folder.resolve().name):
        raise ValueError(f"{folder} is left over from an interrupted command: remove it and run the command again.")
    if is_exported(folder):
        raise ValueError(
            f"{folder} is an exported model, not a Space: write one that runs it (flashsloth demo {folder} --space "
            "DIR --static), and push that."
        )
    if (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} is a model, not a Space: leave out --space, or name a Space's folder.")
    metadata = _metadata(folder / REPOCARD_NAME)
    sdk = metadata.get("sdk")
    if sdk not in SDKS:
        raise ValueError(
            f"{folder} is no Gradio or static Space: its {REPOCARD_NAME} says neither 'sdk: gradio' nor "
            "'sdk: static'. Name a folder that flashsloth demo --space wrote."
        )
    app_file = metadata.get("app_file", APP_FILES[sdk])
    for name in (app_file, *SDKS[sdk]):
        if not (folder / str(name)).is_file():
            raise ValueError(f"{folder} lacks {name}, by which the Hub runs it: write the Space again.")


def _metadata(card: Path) -> dict:
    """What the Hub reads of a card; nothing if there is none."""
    match = REGEX_YAML_BLOCK.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    try:
        metadata = yaml.safe_load(match.group(2)) if match else {}
    except yaml.YAMLError as error:
        raise ValueError(f"The metadata of {card} is not valid YAML: {' '.join(str(error).split())}") from error
    return metadata if isinstance(metadata, dict) else {}


def _what_is_wrong(path: Path, folder: Path) -> str | None:
    """Why a file must not be uploaded; `None` if it may."""
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        return "is a link that points outside the folder: put the file itself there"
    if not path.is_file():
        return "is not a regular file: remove it"
    if path.name.startswith(".") and path.name not in HIDDEN_FILES:
        return "is a hidden file, which may hold secrets: remove it"
    if path.suffix in PICKLES:
        return "may hold pickled objects, which can run code when they are loaded: remove it (weights are safetensors)"
    if path.name.endswith(LEFTOVERS):
        return "is left over from an interrupted write: remove it"
    return None


def _what_it_tells(path: Path) -> Iterator[str]:
    """What a file says that must not leave this machine."""
    if path.suffix not in TEXTS:
        return
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.name in SETTINGS else {}
    except ValueError as error:
        yield f"is not valid text or JSON ({' '.join(str(error).split())}): write the Space again"
        return
    if has_secret(text):
        yield "holds an access token or a password: remove it there, and revoke it where it was made"
    settings = {key: value for key, value in content.items() if key != ORIGINAL_CONFIG}
    found = [value for _, value in local_paths(settings)]
    if path.suffix != ".json" and (match := USER_FOLDER.search(text)):
        found.append(match[0])
    if found:
        yield f"holds a path of this machine ({found[0]}): remove it there"
