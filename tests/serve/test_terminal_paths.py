# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Names of files, however they were typed or dropped into a terminal, and what is a question after all."""

from pathlib import Path

import pytest
from model_folders import error_of

from flashsloth.serve.terminal_paths import dropped_images, expanded, file_names, is_image_name


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The home and working folder, with images of awkward names."""
    for name in ("a photo.png", "Bob's.jpg", "b.png", "notes.txt"):
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_in_every_spelling(home):
    photo, bob = str(home / "a photo.png"), str(home / "Bob's.jpg")
    for typed in ("~/a photo.png", "'~/a photo.png'", "~/a\\ photo.png", '"~/a photo.png"', Path(photo).as_uri()):
        assert file_names(typed) == [photo], typed
    for typed in ("~/Bob's.jpg", "~/Bob\\'s.jpg", '"~/Bob\'s.jpg"'):
        assert file_names(typed) == [bob], typed
    assert file_names(f" '{photo}'  b.png FILE{Path(bob).as_uri()[4:]} ") == [photo, "b.png", bob]
    assert file_names("https://host/a%20b.png?x=1&y=~ nope.png") == ["https://host/a%20b.png?x=1&y=~", "nope.png"]
    assert file_names("") == []


def test_an_open_quote_is_named(home):
    assert "A quote is not closed in 'a photo.png: close it" in error_of(file_names, "b.png 'a photo.png")


@pytest.mark.parametrize(
    ("line", "names", "question"),
    [
        ("'HOME/a photo.png' ", ["HOME/a photo.png"], ""),
        ("HOME/a\\ photo.png HOME/b.png", ["HOME/a photo.png", "HOME/b.png"], ""),
        ("'HOME/b.png' What is it?", ["HOME/b.png"], "What is it?"),
        ("'HOME/b.png'\nWhat is\nit?", ["HOME/b.png"], "What is\nit?"),
        ("file://HOME/b.png What is it?", ["HOME/b.png"], "What is it?"),
        ("~/b.png isn't it?", ["HOME/b.png"], "isn't it?"),
        ("b.png 'a photo.png'", ["b.png", "a photo.png"], ""),
        ("b.png is a name of what?", [], "b.png is a name of what?"),
        ("HOME/notes.txt", [], "HOME/notes.txt"),
        ("HOME/nope.png", [], "HOME/nope.png"),
        ("What is in HOME/b.png?", [], "What is in HOME/b.png?"),
        ("Isn't it?", [], "Isn't it?"),
        ("", [], ""),
    ],
)
def test_images_that_a_line_begins_with(home, line, names, question):
    line = line.replace("HOME", str(home))
    expected = [name.replace("HOME", str(home)) for name in names]
    assert dropped_images(line) == (expected, question.replace("HOME", str(home)))


def test_names_of_images(home):
    assert is_image_name("a.PNG") and is_image_name("/b/c.jpeg") and not is_image_name("a.txt")
    assert expanded("~") == str(home) and expanded("~/x") == str(home / "x") and expanded("a~b") == "a~b"
