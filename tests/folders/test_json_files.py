# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""JSON files of model folders: what is refused, and that they are written as `save_pretrained` writes them."""

import json
import re

import pytest
from model_folders import DEEP, error_of
from samples import make_config

from flashsloth.folders import json_files
from flashsloth.folders.json_files import read_json, read_json_list, write_json


@pytest.fixture
def file(tmp_path):
    """A name for a JSON file, which does not exist."""
    return tmp_path / "config.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": }', "is not valid JSON: .*line 2 column 7"),
        (b'{"a": 1', "is not valid JSON: .*line 1 column 8"),
        (b"", "is not valid JSON"),
        (b'{"a": "\xff\xfe"}', "is not valid JSON: .*position 7"),
        (b'{"a":' * DEEP, "is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[1]", "must hold a JSON object, but holds list"),
        (b"null", "must hold a JSON object, but holds NoneType"),
    ],
    ids=["no value", "cut", "empty", "not UTF-8", "deep", "long number", "list", "null"],
)
def test_errors_name_the_file_and_the_place(file, content, message):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))} {message}") as error:
        read_json(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_json, read_json_list])
def test_a_file_that_is_not_there_or_no_file(file, read):
    assert error_of(read, file) == f"{file} does not exist."
    file.mkdir()
    assert error_of(read, file) == f"{file} does not exist."


def test_a_file_that_is_too_large_is_not_read(file, monkeypatch):
    file.write_text('{"a": 1}')
    monkeypatch.setattr(json_files, "MAX_JSON_BYTES", 7)
    assert f"{file} has 8 bytes, too many for a JSON object of a model" in error_of(read_json, file)


def test_a_list_holds_objects_only(file):
    file.write_text('[{"a": 1}, {}]')
    assert read_json_list(file) == [{"a": 1}, {}]
    file.write_text('[{"a": 1}, 2]')
    assert error_of(read_json_list, file) == f"{file} must hold a JSON array of objects."
    file.write_text("{}")
    assert "must hold a JSON array of objects, but holds dict" in error_of(read_json_list, file)


def test_written_files_are_those_of_save_pretrained(file, tmp_path):
    config = make_config()
    config.save_pretrained(tmp_path / "saved")
    saved = tmp_path / "saved" / "config.json"
    write_json(read_json(saved), file)
    assert file.read_bytes() == saved.read_bytes()
    write_json({"text": "é \u2028 \ud83d"}, file)
    assert read_json(file) == json.loads(file.read_text()) == {"text": "é \u2028 \ud83d"}
