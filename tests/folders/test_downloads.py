# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Models by name: the Hub's local cache, and a Hub on this machine."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
from model_folders import error_of

from flashsloth.folders.downloads import TOKENIZER_FILES, find_model, find_tokenizer


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model with its tokenizer, and what nobody needs; only names matter here."""
    folder = tmp_path / "folder"
    (folder / "onnx").mkdir(parents=True)
    for name in (
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "pytorch_model.bin",
        "README.md",
        "onnx/m.json",
    ):
        (folder / name).write_bytes(b"{}")
    return folder


def files_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_is_its_own_copy(folder, monkeypatch):
    assert find_model(folder) == find_tokenizer(str(folder)) == folder
    revision = folder.rename(folder.with_name("language@main"))
    monkeypatch.chdir(folder.parent)
    assert find_model("language@main") == Path("language@main") and revision.is_dir()


# ---- a Hub ----


def test_only_what_is_needed_is_downloaded(folder, hub):
    commit = hub.add_repo("lab/model", folder)
    found = find_model("lab/model")
    assert found.name == commit and files_of(found) == {"config.json", "model.safetensors"}
    assert files_of(find_model(f"lab/model@{commit}", TOKENIZER_FILES)) == files_of(found) | {"tokenizer.json"}
    assert find_tokenizer("lab/model") == found


def test_pickles_are_downloaded_where_there_is_nothing_better(folder, hub):
    (folder / "model.safetensors").unlink()
    hub.add_repo("lab/old", folder)
    assert files_of(find_model("lab/old")) == {"config.json", "pytorch_model.bin"}


def test_a_revision_is_one_commit(folder, hub):
    old = hub.add_repo("lab/model", folder)
    new = hub.commit("lab/model", {"config.json": b'{"new": 1}'})
    assert [find_model(f"lab/model@{revision}").name for revision in (old, "main", new)] == [old, new, new]


def test_what_the_hub_does_not_have_or_give(folder, hub, monkeypatch):
    hub.add_repo("lab/model", folder)
    hub.add_repo("sloth/secret", folder, private=True)
    for name, words in (
        ("lab/nothing", "Repository Not Found"),
        ("lab/model@v9", "Revision Not Found"),
        ("sloth/secret", "Repository Not Found"),
        ("lab/model@", "the revision after '@' is empty"),
    ):
        message = error_of(find_model, name)
        assert (
            message.startswith(f"{name} is not a folder, and cannot be downloaded from the Hub") and words in message
        )
    monkeypatch.setenv("HF_TOKEN", "hf_NotTheToken")
    assert "Invalid credentials" in error_of(find_model, "sloth/secret")


def test_a_lost_connection_is_not_the_users_error(folder, hub):
    hub.add_repo("lab/model", folder)
    hub.fail("GET", "model.safetensors", 500)
    with pytest.raises(ConnectionError, match="The download of lab/model failed .* Run the command again"):
        find_model("lab/model")
    assert files_of(find_model("lab/model")) == {"config.json", "model.safetensors"}


def test_without_the_hub_the_local_copy_serves(folder, hub, monkeypatch):
    hub.add_repo("lab/model", folder)
    found = find_model("lab/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model("lab/model") == find_model("lab/model@main") == find_model(f"lab/model@{found.name}") == found
    assert "cannot be downloaded from the Hub" in error_of(find_model, "lab/model", TOKENIZER_FILES)


# ---- the Hub's local cache, with the Hub switched off (conftest) ----


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A function that puts a folder into the Hub's local cache; the Hub itself is switched off (conftest)."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def add(repo_id, folder):
        cached = tmp_path / "cache" / f"models--{repo_id.replace('/', '--')}"
        shutil.copytree(folder, cached / "snapshots" / REVISION)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(REVISION)
        return cached

    return add


def test_names_that_are_not_in_the_cache(folder, cache):
    cache("someone/language", folder)
    assert find_model("someone/language").name == REVISION
    names = ("someone/else", "someone/language@v2", f"someone/language@{REVISION[::-1]}", "someone/language@")
    for name in names:
        assert error_of(find_model, name).startswith(f"{name} is not a folder, and cannot be downloaded from the Hub")


@pytest.mark.parametrize("find", [find_model, find_tokenizer])
@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/such/folder", "~/model", "a/b/c", ""])
def test_names_that_cannot_be_on_the_hub(find, name):
    with pytest.raises(FileNotFoundError, match=f"No model folder at '{name}'; give a folder or a Hub id such as"):
        find(name)


def test_files_in_the_place_of_a_folder(tmp_path):
    for name, hint in (("model.safetensors", ""), ("photo.JPG", " An image is given with ask --image.")):
        (tmp_path / name).touch()
        with pytest.raises(FileNotFoundError, match=f"{name}' is a file, not a model folder.{hint}$"):
            find_model(tmp_path / name)


def test_pointers_of_git_lfs(folder, tmp_path):
    clone = shutil.copytree(folder, tmp_path / "clone")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (clone / "model.safetensors").write_text(pointer)
    for find in (find_model, find_tokenizer):
        message = error_of(find, clone)
        assert message == f"{clone / 'model.safetensors'} is a pointer of Git LFS, not the file itself. " + (
            "Fetch the files: git lfs pull"
        )


def test_half_a_repository_in_the_cache(folder, cache, caplog):
    cached = cache("someone/language", folder)
    snapshot = cached / "snapshots" / REVISION
    find_model("someone/language")
    assert "it is unknown whether the local copy of someone/language is complete" in caplog.text
    # What the client keeps of a repository when it downloads from it.
    files = ("config.json", "tokenizer.json", "model.safetensors")
    (cached / "trees").mkdir()
    write_tree_cache(str(cached), REVISION, {name: TreeCacheEntry(1, "0", None, None, None) for name in files})
    caplog.clear()
    assert find_model("someone/language", TOKENIZER_FILES) == snapshot and not caplog.text
    (snapshot / "tokenizer.json").unlink()
    message = error_of(find_model, "someone/language", TOKENIZER_FILES)
    assert message.startswith("someone/language is not a folder, and cannot be downloaded from the Hub")
