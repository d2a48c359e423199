# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Images of rows: where they are read from, what is wrong with one, and the sizes of their files."""

import fsspec
import numpy as np
import pytest
from datasets import Dataset
from samples import make_image

from flashsloth.image_reading_flashsloth import (
    DECOMPRESSION_BOMB,
    FORBIDDEN_IMAGE,
    MISSING_IMAGE,
    TRUNCATED_IMAGE,
    UNDECODABLE_IMAGE,
    ImageError,
)
from flashsloth.train.data import images
from flashsloth.train.data.formats import FEATURES
from flashsloth.train.data.images import FromWorker, UnreachableImage, file_sizes, read_row_image


def at(path) -> dict:
    """An image of a row that is a file."""
    return {"bytes": None, "path": str(path)}


def rows_of(*rows: list[dict]) -> Dataset:
    """A set whose rows have these images, not decoded."""
    columns = {"messages": [], "num_images": 0, "length": 0, "problem": None}
    content = [{"id": str(index), "images": row} | columns for index, row in enumerate(rows)]
    return Dataset.from_list(content, features=FEATURES)


@pytest.fixture
def in_memory():
    """The address of an image in a file system that is no disk."""
    with fsspec.open("memory://images/a.png", "wb") as file:
        make_image(0).save(file, "PNG")
    yield "memory://images/a.png"
    fsspec.filesystem("memory").rm("/images", recursive=True)


def test_an_image_is_the_same_from_a_file_from_bytes_and_from_an_address(image_folder, in_memory):
    content = (image_folder / "0.png").read_bytes()
    # The bytes count where there is a path as well: it may name a file of another machine.
    for image in (at(image_folder / "0.png"), {"bytes": content, "path": "gone.png"}, at(in_memory)):
        assert np.array_equal(read_row_image(image), make_image(0))


def test_a_reduced_image_shows_damage_as_a_whole_one_does(tmp_path):
    make_image(0, 400, 320).save(tmp_path / "a.jpg")
    assert read_row_image(at(tmp_path / "a.jpg"), reduced=True).size == (50, 40)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-2000])
    for reduced in (False, True):
        with pytest.raises(ImageError, match="a.jpg") as error:
            read_row_image(at(tmp_path / "a.jpg"), reduced=reduced)
        assert error.value.reason == TRUNCATED_IMAGE


@pytest.mark.parametrize(
    ("image", "message", "reason"),
    [
        (None, "the row holds no image", MISSING_IMAGE),
        ({"bytes": None, "path": None}, "the row holds no image", MISSING_IMAGE),
        (at("gone.png"), "gone.png", MISSING_IMAGE),
        (at("memory://gone.png"), "memory://gone.png does not exist: check the address", MISSING_IMAGE),
        (at("nowhere://a.png"), "nowhere://a.png cannot be fetched .*: check the address", MISSING_IMAGE),
        (at("local:///dev/zero"), "local:///dev/zero is not fetched: write the path of a file", FORBIDDEN_IMAGE),
        (at("FILE:///etc/passwd"), "is not fetched: write the path of a file", FORBIDDEN_IMAGE),
        (at(" Data://a.png"), "is not fetched: write the path", FORBIDDEN_IMAGE),
        (at("zip:///a.zip"), "is not fetched: write the path", FORBIDDEN_IMAGE),
        (at("simplecache::http://127.0.0.1:1/a.png"), "an address with '::' leads to another one", FORBIDDEN_IMAGE),
        (at("zip://a.png::https://u:PASSWORD@h/a.zip?SIGN"), "^zip://a.png::https://h/a.zip is not", FORBIDDEN_IMAGE),
        (at("memory://u:PASSWORD@h/gone.png?sig=SIGN"), "^memory://h/gone.png does not exist", MISSING_IMAGE),
        (at("nowhere://u:PASSWORD@h/a.png#SIGN"), "^nowhere://h/a.png cannot be fetched", MISSING_IMAGE),
        (at("s3://u:PASSWORD@b::c/a.png?SIGN"), "^s3://b::c/a.png is not fetched", FORBIDDEN_IMAGE),
        ({"bytes": b"404: not found", "path": None}, "14 bytes in the row is not in a format", UNDECODABLE_IMAGE),
        ({"bytes": b"", "path": "a.png"}, "a.png", UNDECODABLE_IMAGE),
    ],
)
def test_what_is_wrong_with_an_image(image, message, reason):
    with pytest.raises(ImageError, match=message) as error:
        read_row_image(image)
    assert error.value.reason == reason
    assert not any(secret in str(error.value) for secret in ("PASSWORD", "SIGN"))


def test_an_image_that_cannot_be_fetched_now_is_no_broken_one(in_memory, monkeypatch):
    monkeypatch.setattr(images, "RETRY_WAITS", ())

    def refuse(*args, **kwargs):
        raise RuntimeError("the token has expired")

    monkeypatch.setattr(fsspec, "open", refuse)
    for address, why in ((in_memory, "the token has expired"), ("http://127.0.0.1:1/a.png", "refused")):
        with pytest.raises(UnreachableImage, match=f"^{address} cannot be fetched: .*{why}.* Start again when it can"):
            read_row_image(at(address))


@pytest.mark.parametrize("scheme", ["http", "HTTP", " Http"])
def test_a_web_address_in_any_spelling_is_fetched_by_the_safe_reader(scheme, monkeypatch):
    monkeypatch.setattr(images, "RETRY_WAITS", ())
    monkeypatch.setattr(fsspec, "open", lambda *args: pytest.fail("fetched by fsspec"))
    with pytest.raises(UnreachableImage, match="cannot be fetched: .*refused") as error:
        read_row_image(at(f"{scheme}://user:PASSWORD@127.0.0.1:1/a.png?sig=SIGN"))
    assert "PASSWORD" not in str(error.value) and "SIGN" not in str(error.value)


def test_no_more_than_an_image_is_read(in_memory, monkeypatch):
    monkeypatch.setattr(images, "MAX_DOWNLOAD", 100)
    with pytest.raises(ImageError, match="memory://images/a.png has more than") as error:
        read_row_image(at(in_memory))
    assert error.value.reason == DECOMPRESSION_BOMB


def test_a_missing_package_stops_and_is_named(monkeypatch):
    """The row may be fine: it is not to be skipped."""

    def refuse(address):
        raise ImportError(f"Install s3fs to access {address}")

    monkeypatch.setattr(fsspec, "open", refuse)
    with pytest.raises(UnreachableImage, match="a package is not installed: Install s3fs to access s3://b/a.png.$"):
        read_row_image(at("s3://user:PASSWORD@b/a.png?sig=SIGN"))


def test_an_error_of_a_worker_has_its_own_text_only():
    """A `DataLoader` makes it again from its text with a traceback in front."""
    traceback = "Caught UnreachableImage in worker\nTraceback:\n  File x\nUnreachableImage: a.png cannot be fetched\n"
    error = UnreachableImage(traceback)
    assert str(error) == "a.png cannot be fetched"
    assert isinstance(error, FromWorker) and isinstance(error, ConnectionError)


def test_sizes_change_with_the_files_and_follow_the_rows(image_folder):
    first, second, third = (at(image_folder / f"{index}.png") for index in range(3))
    dataset = rows_of([first], [], [second, third], [{"bytes": b"in the row", "path": None}], [at("memory://a.png")])
    sizes = file_sizes(dataset)
    assert sizes.dtype == np.int64 and sizes.shape == (5,)
    assert sizes[[1, 3, 4]].tolist() == [0, 0, 0] and sizes[0] and sizes[2]
    assert file_sizes(dataset.select([2, 0, 2])).tolist() == sizes[[2, 0, 2]].tolist()
    (image_folder / "2.png").write_bytes(b"longer or shorter")
    (image_folder / "0.png").unlink()
    changed = file_sizes(dataset)
    assert (changed != sizes).tolist() == [True, False, True, False, False]
