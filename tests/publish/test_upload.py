# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""One push: test_hub.py and test_space.py make whole ones. Here, what is compared and what is refused."""

import hashlib

import pytest
from huggingface_hub.hf_api import RepoFile
from model_folders import error_of

from flashsloth.publish.upload import NO_REVISION, LocalFile, check_target, pinned_revision


def remote_file(content: bytes, **fields) -> RepoFile:
    """A small file as the Hub describes it: by git's hash."""
    oid = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    return RepoFile(path="a.txt", size=len(content), oid=oid, **fields)


@pytest.mark.parametrize("is_file", [True, False])
def test_a_file_is_compared_by_its_hash(tmp_path, is_file):
    (tmp_path / "a.txt").write_bytes(b"sloth")
    local = LocalFile(tmp_path / "a.txt" if is_file else b"sloth")
    assert local.size == 5 and local.is_same_as(remote_file(b"sloth"))
    assert not local.is_same_as(remote_file(b"slots")) and not local.is_same_as(None)
    lfs = {"size": 5, "oid": hashlib.sha256(b"sloth").hexdigest(), "pointerSize": 130}
    assert LocalFile(tmp_path / "a.txt").is_same_as(remote_file(b"other", lfs=lfs))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (("main", True, "New"), "give either --create-pr or --revision"),
        (("0" * 40, False, "New"), "is a commit, to which nothing can be added"),
        ((None, False, " "), "The message is empty."),
    ],
)
def test_what_nothing_can_be_pushed_to(target, message):
    assert message in error_of(check_target, *target)


def test_the_pin_of_a_card():
    assert pinned_revision(f'text\nrevision = "{"a1" * 20}"\n') == "a1" * 20
    assert pinned_revision(f'revision = "{NO_REVISION}"') == NO_REVISION
    assert pinned_revision("no examples") is None
