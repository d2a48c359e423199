# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The images and words of a question, of any kind that people have at hand."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import error_of
from PIL import Image

from flashsloth.assistant.questions import images_by_question, read_images, system_messages, user_message
from flashsloth.image_reading_flashsloth import ImageError


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a photo.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    return path


def test_every_kind_of_image_is_the_same_image(file):
    image = Image.open(file).convert("RGB")
    pixels = np.asarray(image)
    data_url = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    sources = [str(file), file, file.as_uri(), image, pixels, torch.tensor(pixels).permute(2, 0, 1), data_url]
    for source in [*sources, "FILE" + file.as_uri()[4:], file.read_bytes()]:
        (read,) = read_images(source)
        assert np.array_equal(np.asarray(read), pixels), source
    assert [np.asarray(read).shape for read in read_images(sources)] == [(4, 4, 3)] * len(sources)
    assert read_images(None) == read_images([]) == []


def test_the_home_folder(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("USERPROFILE", str(file.parent))
    assert [image.size for image in read_images(["~/a photo.png", Path("~/a photo.png")])] == [(4, 4)] * 2


def test_images_that_cannot_be_used(file, tmp_path):
    assert "The image 'nope.png' does not exist" in error_of(read_images, "nope.png")
    assert "The image 'nope.png' does not exist" in error_of(read_images, [file, Path("nope.png")])
    assert "is a folder: give an image file" in error_of(read_images, str(tmp_path))
    assert "Image 1" in error_of(read_images, [file, 3])
    assert "'ftp://h/a.png' cannot be fetched: its scheme is neither http" in error_of(read_images, "ftp://h/a.png")
    with pytest.raises(ImageError) as error:
        read_images("https://user:secret@127.0.0.1:9/a.png?token=abc")
    assert "secret" not in str(error.value) and "abc" not in str(error.value)


def test_a_batch_has_images_for_each_question():
    assert list(images_by_question(None, 2)) == [None, None]
    assert images_by_question(["a", ["b", "c"]], 2) == ["a", ["b", "c"]]
    assert "images is 1 entries for 2 questions" in error_of(images_by_question, ["a"], 2)
    assert "images is str for 2 questions" in error_of(images_by_question, "ab", 2)


def test_messages():
    parts = [{"type": "image", "image": 1}, {"type": "text", "text": "What?"}]
    assert user_message("What?", [1]) == {"role": "user", "content": parts}
    assert "The question is empty" in error_of(user_message, " \n", [])
    assert "The question is 3: pass text" in error_of(user_message, 3, [])
    assert system_messages(None) == []
    assert system_messages("Be brief.") == [{"role": "system", "content": "Be brief."}]
