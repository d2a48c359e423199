# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
One push to the Hub: files in one commit, and a card in a second, whose examples are pinned to the first. A file that
the Hub holds already, by its hash, is not sent again: after a lost connection the same push goes on from there, and it
changes nothing if all is there. Until a commit is complete, the Hub serves the one before it.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.constants import DEFAULT_REVISION, REGEX_COMMIT_OID, REPOCARD_NAME
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.lfs import UploadInfo
from huggingface_hub.utils.sha import git_hash, sha_fileobj
from tqdm import tqdm


logger = logging.getLogger(__name__)

CARD_MESSAGE = "Model card by flashsloth push"
CARD_FOLDERS = (".eval_results/", "widget/")  # of the files that go with a card
PULL_REQUEST = "refs/pr/"
NO_REVISION = "0" * 40  # stands in a card until it is known which commit it will be pinned to
PIN = re.compile(r'^revision = "([0-9a-f]{40})"$', flags=re.MULTILINE)


@dataclass
class LocalFile:
    """
    A file to upload.

    Args:
        content (`Path` or `bytes`): The file, or its content.
    """

    content: Path | bytes

    @property
    def size(self) -> int:
        return self._info.size

    def is_same_as(self, remote: RepoFile | None) -> bool:
        """Whether a file on the Hub has the same content, by its LFS or git hash."""
        if remote is None or remote.size != self.size:
            return False
        if remote.lfs:
            self._hash()
            return remote.lfs.sha256 == self._info.sha256.hex()
        return remote.blob_id == self._git_hash

    def addition(self, path: str) -> CommitOperationAdd:
        addition = CommitOperationAdd(path, self.content)
        addition.upload_info = self._info  # with the hash, if it is known
        return addition

    @cached_property
    def _info(self) -> UploadInfo:
        is_bytes = isinstance(self.content, bytes)
        return UploadInfo.from_bytes(self.content) if is_bytes else UploadInfo.from_path(str(self.content))

    def _hash(self) -> None:
        """Computes the sha256 of the file with a progress bar, which `_info` does not show."""
        if self._info.is_hashed:
            return
        bar = {"desc": f"Comparing {self.content.name}", "unit": "B", "unit_scale": True, "leave": False}
        with self.content.open("rb") as file, tqdm.wrapattr(file, "read", self.size, **bar) as read:
            self._info.sha256 = sha_fileobj(read)

    @cached_property
    def _git_hash(self) -> str:
        return git_hash(self.content if isinstance(self.content, bytes) else self.content.read_bytes())


def check_target(revision: str | None, create_pr: bool, message: str) -> None:
    """
    Raises:
        ValueError: If nothing can be pushed there, or not with this message; the arguments are those of
            [`~flashsloth.publish.hub.push`].
    """
    if create_pr and revision:
        raise ValueError("A pull request is to the main branch: give either --create-pr or --revision.")
    if revision and REGEX_COMMIT_OID.fullmatch(revision):
        raise ValueError(f"{revision} is a commit, to which nothing can be added: name a branch.")
    if not message.strip():
        raise ValueError("The message is empty.")


def pinned_revision(card: str) -> str | None:
    """The commit that the examples of a card are pinned to, or `None` if it has no such examples."""
    found = PIN.search(card)
    return found[1] if found else None


@dataclass
class Upload:
    """
    One push. Each step starts from what the Hub holds, so that the whole may be run again at any time.

    Args:
        api (`HfApi`): The Hub, with the token of the user.
        repo_id (`str`): The repository.
        files (`Mapping[str, LocalFile]`): The first commit, by path in the repository.
        card (`Mapping[str, bytes]`): The second one; none if empty.
        private (`bool`), revision (`str`), create_pr (`bool`), message (`str`): See
            [`~flashsloth.publish.hub.push`].
        is_ours (`Callable[[str], bool]`): Whether a path is of the kind that a push writes, so that one without it
            removes it.
        repo_type (`str`, *optional*, defaults to `"model"`): Or `"space"`.
    """

    api: HfApi
    repo_id: str
    files: Mapping[str, LocalFile]
    card: Mapping[str, bytes]
    private: bool
    revision: str
    create_pr: bool
    message: str
    is_ours: Callable[[str], bool]
    repo_type: str = "model"
    # The files and the commit that the Hub holds.
    remote: dict[str, RepoFile] = field(default_factory=dict)
    head: str = ""

    def check_rights(self) -> str:
        """
        Returns:
            `str`: The user's name.

        Raises:
            ValueError: If the token may only read, or its user may not write to the owner's repositories.
        """
        me = self.api.whoami()
        if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise ValueError(f"The token of {me['name']} may only read: use one that may write.")
        namespaces = [me["name"], *(organization["name"] for organization in me.get("orgs", []))]
        owner = self.repo_id.split("/")[0]
        if not self.create_pr and owner not in namespaces:
            raise ValueError(
                f"{me['name']} may not write to {self.repo_id}, but to repositories of {', '.join(namespaces)}; "
                "elsewhere with --create-pr."
            )
        return me["name"]

    def run(self, user: str) -> str:
        """Makes the commits that the Hub lacks, and returns the URL."""
        self._prepare(user)
        self.head = self._info(revision=self.revision).sha
        self.remote = self._tree(self.head)
        before = self.head
        stale = [path for path in self.remote if self.is_ours(path) and path not in self.files]
        self._commit(self.files, stale, self.message)
        if self.card:
            pin = self.head if self.head != before else self._pinned() or self.head
            text = self.card[REPOCARD_NAME].replace(NO_REVISION.encode(), pin.encode())
            card = {path: LocalFile(content) for path, content in {**self.card, REPOCARD_NAME: text}.items()}
            self._commit(card, self._stale_card_files(), CARD_MESSAGE)
        if self.head == before:
            logger.info("The Hub holds all files already")
        return self._url()

    def _prepare(self, user: str) -> None:
        """Creates the repository and the branch, or finds the pull request to continue."""
        if self.create_pr:
            requests = self.api.get_repo_discussions(
                self.repo_id,
                author=user,
                discussion_type="pull_request",
                discussion_status="open",
                repo_type=self.repo_type,
            )
            same = [request.git_reference for request in requests if request.title == self.message]
            self.revision = same[0] if same else DEFAULT_REVISION
        elif not self.revision.startswith(PULL_REQUEST):
            sdk = {"space_sdk": "gradio"} if self.repo_type == "space" else {}
            kind = {"repo_type": self.repo_type}
            self.api.create_repo(self.repo_id, private=self.private or None, exist_ok=True, **kind, **sdk)
            if self.private and not self._info().private:
                raise ValueError(f"{self.repo_id} exists and is public: make it private in its settings first.")
            if self.revision != DEFAULT_REVISION:
                self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True, **kind)

    def _info(self, revision: str | None = None):
        return self.api.repo_info(self.repo_id, revision=revision, repo_type=self.repo_type)

    def _tree(self, revision: str) -> dict[str, RepoFile]:
        tree = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type=self.repo_type)
        return {file.path: file for file in tree if isinstance(file, RepoFile)}

    def _commit(self, files: Mapping[str, LocalFile], stale: list[str], message: str) -> None:
        """Makes one commit of the files that differ from the Hub's; none if all are the same."""
        changed = [path for path, file in files.items() if not file.is_same_as(self.remote.get(path))]
        if not changed and not stale:
            return
        for path in changed:
            logger.info("Uploading %s (%s bytes)", path, f"{files[path].size:,}")
        for path in stale:
            logger.info("Removing %s, which the folder no longer holds", path)
        opens = self.create_pr and not self.revision.startswith(PULL_REQUEST)
        info = self.api.create_commit(
            self.repo_id,
            [*(files[path].addition(path) for path in changed), *(CommitOperationDelete(path) for path in stale)],
            commit_message=message,
            repo_type=self.repo_type,
            revision=self.revision,
            create_pr=opens,
            parent_commit=self.head,  # with which the files were compared
        )
        if info.oid == self.head:
            raise ValueError(f"The .gitignore of {self.repo_id} excludes {', '.join(changed)}: remove those lines.")
        self.head = info.oid
        if opens:
            self.revision = info.pr_revision

    def _pinned(self) -> str | None:
        """The commit that the card on the Hub is pinned to, if it holds the same model."""
        if REPOCARD_NAME not in self.remote:
            return None
        with tempfile.TemporaryDirectory() as cache:
            file = self.api.hf_hub_download(self.repo_id, REPOCARD_NAME, revision=self.head, cache_dir=cache)
            pin = pinned_revision(Path(file).read_text(encoding="utf-8"))
        try:
            tree = self._tree(pin) if pin else {}
        except RevisionNotFoundError:  # a card from another repository, or a history that was rewritten
            return None
        return pin if tree and all(file.is_same_as(tree.get(path)) for path, file in self.files.items()) else None

    def _stale_card_files(self) -> list[str]:
        """Files that came with an earlier card, by the title of their commit, and not with this one: old scores."""
        paths = [path for path in self.remote if path.startswith(CARD_FOLDERS) and path not in self.card]
        if not paths:
            return []
        files = self.api.get_paths_info(self.repo_id, paths, expand=True, revision=self.head)
        return [file.path for file in files if file.last_commit.title == CARD_MESSAGE]

    def _url(self) -> str:
        url = f"{self.api.endpoint}/{'spaces/' if self.repo_type == 'space' else ''}{self.repo_id}"
        if self.revision.startswith(PULL_REQUEST):
            return f"{url}/discussions/{self.revision.removeprefix(PULL_REQUEST)}"
        return url if self.revision == DEFAULT_REVISION else f"{url}/tree/{quote(self.revision, safe='')}"
