# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Model folders by name: folders of this machine, and Hub repositories, of which only what is needed is downloaded."""

import logging
from itertools import chain
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from flashsloth.folders.errors import one_line
from flashsloth.folders.git_lfs import check_is_fetched
from flashsloth.image_reading_flashsloth import RASTER_FORMATS, without_secrets


logger = logging.getLogger(__name__)

# Patterns of the files that make a model or a tokenizer; a Hub repository may hold others.
CONFIG_FILES = ("config.json",)
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
SAFETENSORS_FILES = ("model.safetensors.index.json", "model.safetensors", "model-*-of-*.safetensors")
PYTORCH_FILES = ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
# Files in which `save_pretrained` stores weights; the first that is there is read.
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
SUBFOLDERS = ("*/*",)

IMAGE_SUFFIXES = tuple(chain.from_iterable(RASTER_FORMATS.values()))  # endings of the images that are read

REFUSED = (401, 403)  # status codes of HTTP


def find_model(name, files: tuple[str, ...] = CONFIG_FILES) -> Path:
    """
    The folder of a model: `name` itself if it is a folder, else the local copy of a Hub repository, for which missing
    files are downloaded.

    Args:
        name (`str` or `os.PathLike`): a folder, or REPO or REPO@REVISION on the Hub; a folder that exists wins.
        files (`tuple[str, ...]`, *optional*): patterns of the files beside the weights; the config by default.

    Raises:
        FileNotFoundError: If `name` can only be a folder, and there is none.
        ValueError: If there is neither, or the Hub is switched off (`HF_HUB_OFFLINE`) and the local copy incomplete.
            Also if a folder holds pointers of Git LFS.
        OSError: If the Hub cannot be reached, or the connection is lost. What has arrived is kept, and the next call
            continues from there.
    """
    folder = Path(name)
    if is_folder(name):
        check_is_fetched(folder)
        return folder
    folder = _download(str(name), (*files, *SAFETENSORS_FILES))
    if not any((folder / file).is_file() for file in WEIGHT_FILES):
        # Pickles are large, and downloaded only where there is nothing better.
        folder = _download(str(name), (*files, *PYTORCH_FILES))
    return folder


def find_tokenizer(name) -> Path:
    """The folder of a tokenizer; see [`find_model`]."""
    return find_files(name, TOKENIZER_FILES)


def find_files(name, files: tuple[str, ...], ignored: tuple[str, ...] = SUBFOLDERS) -> Path:
    """The folder of a model with the files of these patterns, but not of the ignored ones; see [`find_model`]."""
    folder = Path(name)
    if is_folder(name):
        check_is_fetched(folder)
        return folder
    progress_bars = not are_progress_bars_disabled()
    disable_progress_bars()  # the files are small, and the weights that may follow have a bar
    try:
        return _download(str(name), files, ignored)
    finally:
        if progress_bars:
            enable_progress_bars()


def is_folder(name) -> bool:
    """Whether a name is that of a folder. An empty one is not, although `Path` takes it for the working folder."""
    return str(name) != "" and Path(name).is_dir()


def download_error(name: str, error: HTTPError) -> ValueError | ConnectionError:
    """What to raise for a download that failed: the user's error if the Hub refuses it, else the connection's."""
    if isinstance(error, HfHubHTTPError) and error.response.status_code in REFUSED:
        return ValueError(f"The Hub does not give {name} to this token: {one_line(error)}")
    return ConnectionError(
        f"The download of {name} failed ({one_line(error)}). Run the command again: it continues where it stopped."
    )


def check_is_repo_id(name: str) -> None:
    """
    Raises:
        FileNotFoundError: If a name that is no folder cannot be one of the Hub either.
    """
    repo_id = name.partition("@")[0]
    if Path(name).is_file():
        hint = " An image is given with ask --image." if Path(name).suffix.lower() in IMAGE_SUFFIXES else ""
        raise FileNotFoundError(f"'{name}' is a file, not a model folder.{hint}")
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        shown = without_secrets(name)
        raise FileNotFoundError(f"No model folder at '{shown}'; give a folder or a Hub id such as owner/name.")


def _download(name: str, files: tuple[str, ...], ignored: tuple[str, ...] = SUBFOLDERS) -> Path:
    check_is_repo_id(name)
    repo_id, at, revision = name.partition("@")
    try:
        if at and not revision:
            raise HFValidationError("the revision after '@' is empty.")
        folder = snapshot_download(
            repo_id, revision=revision or None, allow_patterns=list(files), ignore_patterns=list(ignored)
        )
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(_not_found(name, error)) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, OfflineModeIsEnabled):
            raise ValueError(_not_found(name, error)) from error
        raise ConnectionError(_not_found(name, error)) from error
    except HTTPError as error:
        raise download_error(name, error) from error
    try:
        get_cached_repo_tree(repo_id, revision=Path(folder).name)
    except CachedRepoTreeNotFoundError:
        logger.warning("The Hub cannot be reached, so it is unknown whether the local copy of %s is complete.", name)
    return Path(folder)


def _not_found(name: str, error: Exception) -> str:
    return f"{name} is not a folder, and cannot be downloaded from the Hub: {one_line(error)}"
