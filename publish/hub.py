# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A release to the Hub, in two commits: the model's files, then the model card, whose examples are pinned to the first
commit.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.constants import DEFAULT_REVISION, REPOCARD_NAME

from flashsloth.loading import check_folder, check_runs_here, is_int4, load_model, load_processor, runs_int4
from flashsloth.publish.card import (
    SHIPPED_EXAMPLE,
    Example,
    card_files,
    warn_of_no_license,
)
from flashsloth.publish.connection import clear_errors, redact, redacted_logs, retried
from flashsloth.publish.release import Release, is_release_file, read_release
from flashsloth.publish.trial import try_folder
from flashsloth.publish.upload import LocalFile, Upload, check_target
from flashsloth.publish.values import check_repo_id


logger = logging.getLogger(__name__)

MESSAGE = "Upload FlashSloth model"


def contents(
    folder, repo_id: str, keep_card: bool = False, base_models: Sequence[str] = (), **card_options
) -> tuple[Release, dict[str, bytes]]:
    """
    Checks a folder and says what a push of it sends, without the network.

    Args:
        folder (`str` or `os.PathLike`): The model folder.
        repo_id (`str`): The repository, `owner/name`.
        keep_card (`bool`, *optional*, defaults to `False`): Make no model card: send the folder's own README.md, or
            leave the one on the Hub as it is.
        base_models (`Sequence[str]`, *optional*): See [`read_release`].
        card_options: `license`, `languages`, `datasets` and `example`, see [`card_files`].

    Returns:
        `tuple[Release, dict[str, bytes]]`: The release, which is the first commit, and the content of the card's files
        by path, which is the second one.

    Raises:
        ValueError: If the folder cannot be uploaded, or an option is malformed.
    """
    check_repo_id(repo_id)
    given = [name for name, value in {**card_options, "base_models": base_models}.items() if value]
    if keep_card and given:
        raise ValueError(
            f"--keep-card makes no model card, in which {', '.join(given)} would stand: leave out one or the other."
        )
    release = read_release(folder, keep_card, base_models)
    check_folder(release.folder)
    if keep_card:
        return release, {}
    if not card_options.get("license"):
        warn_of_no_license(release.lineage)
    return release, card_files(release, repo_id, **card_options)


def preview(
    folder, repo_id: str, card_file=None, keep_card: bool = False, base_models: Sequence[str] = (), **card_options
) -> dict[str, int]:
    """
    What a push would upload, without the network.

    Args:
        folder (`str` or `os.PathLike`), repo_id (`str`), keep_card (`bool`, *optional*), base_models (`Sequence[str]`,
            *optional*), card_options: See [`contents`].
        card_file (`str` or `os.PathLike`, *optional*): Write the model card there. The model is tried for its answer,
            if it runs on this machine. The examples name no commit yet, but zeros.

    Returns:
        `dict[str, int]`: The size of each file in bytes, by path.

    Raises:
        ValueError: As [`contents`], or if `card_file` is to be written but no card is made, or in no folder.
        OSError: If `card_file` cannot be written.
    """
    if card_file and keep_card:
        raise ValueError(f"--keep-card makes no model card, which --card would write to {card_file}: leave out one.")
    if card_file and not Path(card_file).absolute().parent.is_dir():
        raise ValueError(
            f"{Path(card_file).parent}, where the model card would be written, is no folder: make it first."
        )
    release, card = contents(folder, repo_id, keep_card, base_models, **card_options)
    can_run = runs_int4() or not is_int4(release.config)
    if not can_run:
        logger.warning(
            "The model has int4 weights, which need an NVIDIA GPU with mslk. A push tries the model, so it has to be "
            "made on such a machine."
        )
    if card_file:
        answer = try_release(release, card_options.get("example")) if can_run else None
        card = card_files(release, repo_id, answer=answer, **card_options)
        Path(card_file).write_bytes(card[REPOCARD_NAME])
    return release.sizes | {path: len(content) for path, content in card.items()}


def try_release(release: Release, example: Example | None = None) -> str:
    """
    Tries a release twice: with this package, whose checks name what is wrong with a folder, and as a stranger will use
    it, without this package.

    Args:
        release ([`Release`]): The release.
        example ([`Example`], *optional*): What it is asked; the example of this library if unset.

    Returns:
        `str`: The answer.

    Raises:
        ValueError: If it cannot be loaded, or does not answer.
    """
    if not release.foreign_code or is_int4(release.config):  # other code may have another architecture
        load_processor(release.folder)
        load_model(release.folder, dtype="auto")
    example = example or SHIPPED_EXAMPLE
    return try_folder(release.folder, example.question, example.image)


def push(
    folder,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = MESSAGE,
    keep_card: bool = False,
    base_models: Sequence[str] = (),
    endpoint: str | None = None,
    token: str | None = None,
    **card_options,
) -> str:
    """
    Uploads a model folder with a model card, after a trial in a process without this package.

    Args:
        folder (`str` or `os.PathLike`): The model folder.
        repo_id (`str`): The repository, `owner/name`, which is made if it does not exist.
        private (`bool`, *optional*, defaults to `False`): Make it private.
        revision (`str`, *optional*): The branch, which is made if it does not exist, or `refs/pr/N`; "main" if unset.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request, or continue the user's own open one
            of the same `message`.
        message (`str`, *optional*, defaults to `"Upload FlashSloth model"`): Of the commit, or title of the pull
            request.
        keep_card (`bool`, *optional*, defaults to `False`), base_models (`Sequence[str]`, *optional*), card_options:
            See [`contents`].
        endpoint (`str`, *optional*): The Hub's URL; as HF_ENDPOINT says if unset.
        token (`str`, *optional*): As HF_TOKEN or `hf auth login` says if unset.

    Returns:
        `str`: The URL of the repository, of the branch or of the pull request.

    Raises:
        ValueError: If the folder cannot be uploaded or does not work, or the Hub refuses it.
        OSError: If the Hub or the connection fails in several attempts.
    """
    check_target(revision, create_pr, message)
    release, card = contents(folder, repo_id, keep_card, base_models, **card_options)
    for name in release.foreign_code:
        logger.warning("%s differs from the code of this version of FlashSloth, and is uploaded as it is", name)
    token = token or get_token()
    api = HfApi(endpoint=endpoint, token=token)
    files = {path: LocalFile(content) for path, content in release.files.items()}
    to = (private, revision or DEFAULT_REVISION, create_pr, message)
    upload = Upload(api, repo_id, files, {}, *to, is_ours=is_release_file)
    with redacted_logs(token):
        with clear_errors(repo_id, token):
            user = retried(upload.check_rights)
        check_runs_here(release.folder, release.config)
        answer = try_release(release, card_options.get("example"))
        if card:
            upload.card = card_files(release, repo_id, answer=answer, **card_options)
        with clear_errors(repo_id, token):
            return redact(retried(lambda: upload.run(user)), token)
