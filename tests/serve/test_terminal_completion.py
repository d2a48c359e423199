# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Completion of a line: each candidate goes on from what is typed, in its own spelling."""

import pytest

from flashsloth.serve.terminal_completion import Completion


COMPLETION = Completion(
    ("/image", "/save", "/hd", "/help", "/exit"),
    suffixes={"/image": (".png", ".jpg"), "/save": (".md",)},
    words={"/hd": ("on", "off")},
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("one.png", "other.JPG", "two words.png", "quo'te\".png", ".hidden.png", "notes.md", "folder/in.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a folder").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("/", ["/image ", "/save ", "/hd ", "/help", "/exit"]),
        ("/h", ["/hd ", "/help"]),
        ("", []),
        ("What", []),
        ("/nope ", []),
        ("/help ", []),
        ("/hd o", ["/hd on", "/hd off"]),
        ("/image o", ["/image one.png ", "/image other.JPG "]),
        ("/image one.png tw", ["/image one.png two\\ words.png "]),
        ("/image two\\ w", ["/image two\\ words.png "]),
        ("/image 'two w", ["/image 'two words.png' "]),
        ('/image "two w', ['/image "two words.png" ']),
        ("/image q", ["/image quo\\'te\\\".png "]),
        ('/image "q', ['/image "quo\'te\\".png" ']),
        ("/image f", ["/image folder/"]),
        ("/image folder/", ["/image folder/in.png "]),
        ("/image ~/folder/i", ["/image ~/folder/in.png "]),
        ("/image '~/tw", ["/image '~/two words.png' "]),
        ("/image ~", ["/image ~/"]),
        ("/image .h", ["/image .hidden.png "]),
        ("/image nope/", []),
        ("/image two\\", []),
        ("/save ", ["/save a\\ folder/", "/save folder/", "/save notes.md "]),
        ("/save 'a", ["/save 'a folder/"]),
    ],
)
def test_candidates(line, candidates):
    found = COMPLETION.candidates(line)
    assert found == candidates
    assert all(candidate.startswith(line) for candidate in found)


def test_all_that_is_not_hidden():
    names = {line.removeprefix("/image ") for line in COMPLETION.candidates("/image ")}
    assert names == {
        "one.png ",
        "other.JPG ",
        "two\\ words.png ",
        "quo\\'te\\\".png ",
        "folder/",
        "a\\ folder/",
    }
