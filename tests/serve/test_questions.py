# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Each form of a row becomes a question with its images; a row that cannot be asked says why."""

import base64
import json
from pathlib import Path

import pytest

from flashsloth.serve.questions import Row, read_sources, select_columns
from flashsloth.serve.sources import open_source


DATA_URL = "data:image/png;base64," + base64.b64encode(b"picture").decode()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "a.png").write_bytes(b"file")
    return tmp_path


def open_rows(folder, *rows, **options):
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return select_columns(open_source([str(folder / "q.jsonl")]), **options)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("a.png", [b"file"]),
        (["a.png", "https://example.org/b.png"], [b"file", "https://example.org/b.png"]),
        (DATA_URL, [b"picture"]),
        (DATA_URL.replace("data:", "Data:"), [b"picture"]),
        (base64.b64encode(bytes(3000)).decode(), [bytes(3000)]),
        (b"raw", [b"raw"]),
        ({"bytes": b"raw", "path": "gone.png"}, [b"raw"]),
        ([{"bytes": None, "path": "a.png"}], [b"file"]),
    ],
)
def test_forms_of_images(value, expected, folder):
    assert read_sources(value, folder) == expected


def test_an_address_of_a_file(folder):
    assert read_sources((folder / "a.png").as_uri(), Path("/nowhere")) == [b"file"]
    assert read_sources(str(folder / "a.png"), Path("/nowhere")) == [b"file"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("b.png", "The image 'b.png' does not exist, and is neither a URL nor base64 data."),
        (["a.png", "b.png"], "Image 2 of 2 'b.png' does not exist"),
        (["a.png", None], "Image 2 of 2 is nothing"),
        (7, "The image is a int"),
        ({"bytes": None, "path": None}, "The image is nothing"),
        ("data:image/png;base64,", "holds nothing behind its comma"),
        (DATA_URL[:-1], "cut off or damaged"),
        ("ftp://user:SECRET@h/a.png", "'ftp://h/a.png' cannot be fetched: its scheme is neither http, https"),
        ("a\0.png", "does not exist"),
        ("x" * 5000 + ".png", r"'x{100}\.\.\.' does not exist"),
    ],
)
def test_what_is_no_image(value, message, folder):
    with pytest.raises(ValueError, match=message):
        read_sources(value, folder)


def test_rows_of_the_hub_name_no_local_files(folder):
    for value in (str(folder / "a.png"), (folder / "a.png").as_uri(), {"bytes": None, "path": str(folder / "a.png")}):
        with pytest.raises(ValueError, match="is neither a URL nor base64 data, which rows of the Hub must hold"):
            read_sources(value, None)


def test_rows_that_cannot_be_asked_say_why(folder):
    rows = [{"question": "What?", "image": "a.png"}, {}, {"question": None}, {"question": " "}, {"question": 3}]
    rows += [{"question": "\ud800"}, {"question": "What?", "image": "b.png"}, {"question": "Text only?"}]
    rows += [{"question": "What?", "image": name} for name in ("\ud800.png", "https://h/\ud800.png")]
    found = list(open_rows(folder, *rows).rows([]))
    assert found[0] == Row(0, "What?", (b"file",))
    assert [row.error for row in found[1:5]] == [
        "The row has no question.",
        "The row has no question.",
        "The question is empty.",
        "The question is a int, not text.",
    ]
    assert "half a character" in found[5].error and "'b.png' does not exist" in found[6].error
    assert found[7] == Row(7, "Text only?")
    assert r"The image '\ud800.png' does not exist" in found[8].error
    assert "The address of an image holds half a character" in found[9].error
    assert all((row.error or "").isascii() for row in found)  # so that it can be handed to another process


def test_rows_that_are_done_are_left_out(folder):
    asked = open_rows(folder, *({"question": f"{n}?"} for n in range(6)))
    assert [row.index for row in asked.rows([True, True, False, True])] == [2, 4, 5]
    assert [row.index for row in asked.rows([True] * 6)] == []


def test_columns_may_have_other_names(folder):
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"other file")
    row = {"text": "What?", "files": ["a.png"]}
    asked = open_rows(folder, row, question_column="text", image_column="files", images=folder / "pictures")
    assert list(asked.rows([])) == [Row(0, "What?", (b"other file",))]


@pytest.mark.parametrize("column", ["file_name", "images_file_names"])
def test_columns_of_file_names_hold_images(column, folder):
    """As a metadata.jsonl of `datasets` has them."""
    value = "a.png" if column == "file_name" else ["a.png"]
    assert list(open_rows(folder, {"question": "What?", column: value}).rows([])) == [Row(0, "What?", (b"file",))]


def test_questions_without_images_are_told(folder, caplog):
    with caplog.at_level("INFO"):
        asked = open_rows(folder, {"question": "What?", "picture": "a.png"})
    assert asked.image_column is None
    assert "q.jsonl has no column of images: its questions are asked without any" in caplog.messages


def test_one_question_for_all_images(folder):
    asked = select_columns(open_source([str(folder)]), question="What is it?")
    assert list(asked.rows([])) == [Row(0, "What is it?", (b"file",))]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"text": "What?"}, {}, "q.jsonl has no column 'question': .* --question-column.* It has text."),
        ({"question": "What?"}, {"question_column": "text"}, "has no column 'text'"),
        ({"question": "What?"}, {"image_column": "file"}, "has no column 'file': correct --image-column"),
        ({"question": "", "image": 1, "images": 2}, {}, "the columns image and images: choose one by --image-column"),
        ({"question": "What?"}, {"question": "Who?"}, "has questions, in the column 'question': leave out --question"),
        ({"question": "What?"}, {"images": Path("nowhere")}, "--images names no folder: 'nowhere'"),
    ],
)
def test_columns_that_are_wrong(row, options, message, folder):
    with pytest.raises(ValueError, match=message):
        open_rows(folder, row, **options)
