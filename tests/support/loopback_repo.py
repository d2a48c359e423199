# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What a Hub keeps of one repository: commits, the refs that point at them, and files as git and LFS name them; and what
it asks of a card.
"""

import fnmatch
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK


# The suffixes that the .gitattributes of a new repository sends to LFS; the Hub's own list is longer.
LFS_SUFFIXES = (".arrow", ".bin", ".gz", ".npy", ".npz", ".onnx", ".parquet", ".pt", ".pth", ".safetensors", ".zip")
# Beyond this size, or if binary, any other file goes to LFS as well, and gets a line of its own in .gitattributes.
MAX_REGULAR_SIZE = 10 * 1024 * 1024
# What the card of a Space may say (https://huggingface.co/docs/hub/spaces-config-reference).
COLOURS = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
COLOUR_FIELDS = ("colorFrom", "colorTo")
MAX_SHORT_DESCRIPTION = 60
LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"


@dataclass(frozen=True)
class File:
    """The content of a file, and whether git keeps it itself or a pointer to it in LFS."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        spec = "https://git-lfs.github.com/spec/v1"
        return f"version {spec}\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The name of git's blob: of the file, or of the pointer that stands for it."""
        blob = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A commit: all files of the repository at that point, by path."""

    sha: str
    parent: "Commit | None"
    title: str
    description: str
    date: datetime
    files: Mapping[str, File]

    def history(self) -> list["Commit"]:
        """This commit and those before it, the newest first."""
        return [self, *(self.parent.history() if self.parent else [])]

    def last_change(self, path: str) -> "Commit":
        """The commit that gave a file the content that it has here."""
        commit = self
        while commit.parent and commit.parent.files.get(path) == self.files[path]:
            commit = commit.parent
        return commit

    def folders(self) -> dict[str, str]:
        """Path and object name of each folder."""
        parents = (path.split("/")[:depth] for path in self.files for depth in range(1, path.count("/") + 1))
        return {path: hashlib.sha1(f"{self.sha} {path}".encode()).hexdigest() for path in map("/".join, parents)}

    @property
    def iso_date(self) -> str:
        return self.date.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def entries(self, expand: bool) -> dict[str, dict]:
        """
        Files and folders by path, as the Hub lists them.

        Args:
            expand (`bool`): Name the commit of each file as well.
        """
        entries = {
            path: {"type": "directory", "oid": oid, "size": 0, "path": path} for path, oid in self.folders().items()
        }
        for path, file in self.files.items():
            entries[path] = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}
            if file.lfs:
                sizes = {"size": len(file.content), "pointerSize": len(file.pointer)}
                entries[path]["lfs"] = {"oid": file.sha256, **sizes}
            if expand:
                last = self.last_change(path)
                entries[path]["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.iso_date}
        return dict(sorted(entries.items()))


@dataclass
class Repo:
    """
    One repository.

    Args:
        repo_type (`str`): "model", "dataset" or "space".
        repo_id (`str`): `owner/name`.
        private (`bool`, *optional*, defaults to `False`): Whether only its owner sees it.
    """

    repo_type: str
    repo_id: str
    private: bool = False
    refs: dict[str, Commit] = field(default_factory=dict)
    lfs_objects: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self):
        attributes = "".join(f"*{suffix} {LFS_ATTRIBUTES}\n" for suffix in LFS_SUFFIXES)
        self._point("refs/heads/main", {".gitattributes": File(attributes.encode())}, "initial commit", "", None)

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, a tag or a pull request; `None` if there is no such."""
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((name for name in names if name in self.refs), None)

    def find(self, revision: str) -> Commit | None:
        """The commit that a ref or a hash of 7 digits or more stands for."""
        if ref := self.ref(revision):
            return self.refs[ref]
        if not re.fullmatch("[0-9a-f]{7,40}", revision):
            return None
        commits = (commit for head in self.refs.values() for commit in head.history())
        return next((commit for commit in commits if commit.sha.startswith(revision)), None)

    def wants_lfs(self, commit: Commit, path: str, size: int, sample: bytes) -> bool:
        """Whether the Hub takes a file through LFS, by its name, its size, or as its first bytes are not text."""
        return _has_attribute(commit, path) or size > MAX_REGULAR_SIZE or b"\0" in sample

    def commit(self, ref: str, changes: Mapping[str, File | None], title: str, description: str = "") -> Commit:
        """
        Puts a commit on top of a ref, which is made if there is none.

        Args:
            ref (`str`): Its full name.
            changes (`Mapping[str, File | None]`): Files to write; `None` deletes.
            title (`str`): First line of the message.
            description (`str`, *optional*): The rest of it.
        """
        parent = self.refs.get(ref, self.refs["refs/heads/main"])
        files = {path: file for path, file in {**parent.files, **changes}.items() if file is not None}
        for path, file in changes.items():
            if file is not None and file.lfs:
                self.lfs_objects[file.sha256] = file.content
                if not _has_attribute(parent, path):
                    line = f"{path} {LFS_ATTRIBUTES}\n".encode()
                    files[".gitattributes"] = File(files[".gitattributes"].content + line)
        return self._point(ref, files, title, description, parent)

    def open_pull_request(self, base: Commit) -> str:
        """A new ref for a pull request, which begins at `base`."""
        ref = f"refs/pr/{sum(name.startswith('refs/pr/') for name in self.refs) + 1}"
        self.refs[ref] = base
        return ref

    def _point(self, ref: str, files: Mapping[str, File], title: str, description: str, parent: Commit | None):
        date = datetime.now(UTC)
        seal = f"{parent and parent.sha} {date} {title} {sorted((path, file.oid) for path, file in files.items())}"
        sha = hashlib.sha1(seal.encode()).hexdigest()
        self.refs[ref] = Commit(sha, parent, title, description, date, files)
        return self.refs[ref]


def _has_attribute(commit: Commit, path: str) -> bool:
    lines = commit.files[".gitattributes"].content.decode().splitlines() if ".gitattributes" in commit.files else []
    patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
    return any(fnmatch.fnmatchcase(path if "/" in pattern else path.split("/")[-1], pattern) for pattern in patterns)


def card_problems(card: str, repo_type: str = "model") -> tuple[list[str], list[str]]:
    """What the Hub has against a card's metadata: errors, for which it refuses the commit, and warnings."""
    match = REGEX_YAML_BLOCK.search(card)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(match.group(2))
    except yaml.YAMLError as error:
        return [f"Invalid YAML in README.md: {error}"], []
    if not isinstance(metadata, dict):
        return ["Repo card metadata must be an object"], []
    errors = []
    for name in ("license", "library_name", "pipeline_tag", "base_model_relation"):
        if not isinstance(metadata.get(name, ""), str):
            errors.append(f'"{name}" must be a string')
    if repo_type == "space":
        errors += [f'"{name}" must be one of {COLOURS}' for name in COLOUR_FIELDS if metadata.get(name) not in COLOURS]
        if len(metadata.get("short_description", "")) > MAX_SHORT_DESCRIPTION:
            errors.append(f'"short_description" must have at most {MAX_SHORT_DESCRIPTION} characters')
    for name in ("tags", "metrics", "datasets", "language", "base_model"):
        values = metadata.get(name, [])
        if not all(isinstance(value, str) for value in (values if isinstance(values, list) else [values])):
            errors.append(f'"{name}" must be a string or a list of strings')
    try:
        ModelCardData(**metadata)
    except ValueError as error:
        errors.append(str(error))
    return errors, []
