# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A clone without Git LFS is recognised by its pointers, and nothing else is taken for one."""

import pytest

from flashsloth.folders.git_lfs import POINTER, check_is_fetched


def test_pointers_are_named_with_the_remedy(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    check_is_fetched(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(POINTER + b"\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ValueError, match="model.safetensors is a pointer of Git LFS.*git lfs pull"):
        check_is_fetched(tmp_path)


def test_files_and_folders_that_only_look_like_pointers(tmp_path):
    (tmp_path / "long.txt").write_bytes(POINTER + bytes(2000))
    (tmp_path / "middle.txt").write_bytes(b" " + POINTER)
    (tmp_path / "folder").mkdir()
    check_is_fetched(tmp_path)
