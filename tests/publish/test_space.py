# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A Space goes to the Hub as it is, and nothing goes with it that must not leave this machine."""

import json
import shutil
from pathlib import Path

import pytest
from model_folders import error_of, set_config

import flashsloth
from flashsloth import cli
from flashsloth.publish import connection
from flashsloth.publish.space import MESSAGE, preview_space, push_space, read_space
from flashsloth.serve.space import write_space


TINY = Path(flashsloth.__file__).parent / "checkpoints" / "flashsloth-tiny"
REPO = "sloth/demo"
TOKEN = "hf_" + "Ab1" * 10


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """What `flashsloth demo --space` writes; no test changes it."""
    return write_space(tmp_path_factory.mktemp("spaces") / "space", [str(TINY)])


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy of it, which a test may change."""
    return shutil.copytree(written, tmp_path / "space")


@pytest.fixture
def publish(hub, folder, monkeypatch):
    """Pushes the folder to the Hub, without waits."""
    monkeypatch.setattr(connection, "RETRY_WAITS", (0, 0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    return lambda repo_id=REPO, **options: push_space(folder, repo_id, endpoint=hub.url, token=hub.token, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def served(hub, revision: str = "main") -> dict[str, bytes]:
    files = hub.files(REPO, revision, repo_type="space")
    return {path: data for path, data in files.items() if path != ".gitattributes"}


def test_a_new_space_is_the_folder(hub, folder, publish):
    assert publish(private=True) == f"{hub.url}/spaces/{REPO}"
    assert served(hub) == content(folder)
    assert hub.repos["space", REPO].private
    assert [commit.title for commit in hub.head(REPO, repo_type="space").history()] == [MESSAGE, "initial commit"]


def test_again_and_after_a_change(hub, folder, publish):
    publish()
    first = hub.head(REPO, repo_type="space")
    publish()
    assert hub.head(REPO, repo_type="space") is first
    hub.commit(REPO, {"own.md": b"of its owner"}, repo_type="space")
    (folder / "models" / "flashsloth-tiny").rename(folder / "models" / "other")
    puts = hub.count("PUT")
    publish(message="Another name")
    assert served(hub) == {**content(folder), "own.md": b"of its owner"}
    assert hub.count("PUT") == puts  # the weights are there already


def test_branch_and_pull_request(hub, folder, publish):
    publish()
    (folder / "app.py").write_text("print('other')\n")
    assert publish(revision="trial") == f"{hub.url}/spaces/{REPO}/tree/trial"
    assert publish(create_pr=True) == f"{hub.url}/spaces/{REPO}/discussions/1"
    for revision in ("trial", "refs/pr/1"):
        assert served(hub, revision)["app.py"] == b"print('other')\n"
    assert served(hub)["app.py"] != b"print('other')\n"


def test_a_lost_connection_is_made_up_for(hub, folder, publish):
    hub.fail("PUT", "/objects/", body_bytes=1000)
    hub.fail("POST", "/commit/", answer_bytes=0)
    publish()
    assert served(hub) == content(folder)


def test_what_running_it_leaves_is_left_here(folder):
    before = read_space(folder).keys()
    for name in ("__pycache__/app.pyc", "flashsloth/__pycache__/loading.pyc", ".gradio/certificate.pem"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert read_space(folder).keys() == before


def test_the_origin_of_a_converted_model_is_told_without_paths(folder):
    model = folder / "models" / "flashsloth-tiny"
    set_config(model, original_config={"mm_vision_tower": "/home/ann/siglip"})
    config = json.loads(read_space(folder)["models/flashsloth-tiny/config.json"])
    assert config["original_config"] == {"mm_vision_tower": "siglip"}


# What is done to a Space, and what a push of it says.
BAD_INPUT = {
    "no folder": (shutil.rmtree, "is not a folder: name one that flashsloth demo --space wrote"),
    "a model": (lambda folder: shutil.copy(TINY / "config.json", folder), "is a model, not a Space"),
    "an exported model": (
        lambda folder: (folder / "export.json").write_text("{}"),
        "is an exported model, not a Space: write one that runs it (flashsloth demo ",
    ),
    "no card": (lambda folder: (folder / "README.md").unlink(), "says neither 'sdk: gradio' nor 'sdk: static'"),
    "a card that is not YAML": (
        lambda folder: (folder / "README.md").write_text("---\nsdk: [\n---\n"),
        "is not valid YAML",
    ),
    "no app": (lambda folder: (folder / "app.py").unlink(), "lacks app.py"),
    "no requirements": (lambda folder: (folder / "requirements.txt").unlink(), "lacks requirements.txt"),
    "a token in the code": (
        lambda folder: (folder / "app.py").write_text(f"TOKEN = '{TOKEN}'"),
        "app.py holds an access token or a password",
    ),
    "a password in the requirements": (
        lambda folder: (folder / "requirements.txt").write_text("--index-url https://ann:secret@host/simple"),
        "requirements.txt holds an access token or a password",
    ),
    "a path in the code": (
        lambda folder: (folder / "app.py").write_text("MODEL = '/home/ann/model'"),
        "app.py holds a path of this machine (/home/ann/)",
    ),
    "a path in a config": (
        lambda folder: set_config(folder / "models" / "flashsloth-tiny", _name_or_path="/data/ann/7"),
        "models/flashsloth-tiny/config.json holds a path of this machine (/data/ann/7)",
    ),
    "a hidden file": (lambda folder: (folder / ".env").write_text("x"), ".env is a hidden file"),
    "a pickle": (
        lambda folder: (folder / "models" / "a.bin").write_text("x"),
        "models/a.bin may hold pickled objects",
    ),
    "a leftover": (lambda folder: (folder / "a.json.tmp").write_text("x"), "a.json.tmp is left over"),
    "a link to elsewhere": (
        lambda folder: (folder / "own.md").symlink_to("/etc/hosts"),
        "own.md is a link that points outside the folder",
    ),
    "a link to a folder elsewhere": (
        lambda folder: (folder / "own").symlink_to("/etc"),
        "own is a link that points outside the folder",
    ),
    "text that is none": (lambda folder: (folder / "a.md").write_bytes(b"\xff"), "a.md is not valid text"),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_nothing_is_sent_of_a_bad_folder(hub, folder, publish, given):
    change, says = BAD_INPUT[given]
    change(folder)
    assert says in error_of(publish)
    assert not hub.repos


def test_all_problems_are_named_at_once(folder):
    for name in (".env", "a.pkl", "b.tmp"):
        (folder / name).write_text("x")
    assert all(name in error_of(preview_space, folder, REPO) for name in (".env", "a.pkl", "b.tmp"))


def test_wrong_arguments(hub, publish):
    assert "lacks its owner" in error_of(publish, "demo")
    assert "The message is empty" in error_of(publish, message=" ")
    assert "may not write to other/demo" in error_of(publish, "other/demo")
    assert not hub.repos


def test_the_command(hub, folder, capsys, monkeypatch):
    assert cli.main(["push", "--space", str(folder), REPO, "--dry-run"]) == 0
    *rows, total = (line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    sizes = {name: int(size.replace(",", "")) for size, name in rows}
    assert sizes == {name: len(data) for name, data in content(folder).items()}
    assert total == [f"{sum(sizes.values()):,}", f"{len(sizes)} files"]
    assert cli.main(["push", "--space", str(folder), REPO, "--license", "mit"]) == 2
    assert "--license is for the card of a model: leave it out with --space" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert cli.main(["push", "--space", str(folder), REPO]) == 0
    assert capsys.readouterr().out == f"{hub.url}/spaces/{REPO}\n"
    assert served(hub) == content(folder)
