# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Files are read with one line for whatever is wrong with them, and written whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest

from flashsloth.eval.files import ID, Pairs, check_fields, is_file, parse, read_json_file, read_rows, shown, write_rows


@pytest.mark.parametrize(
    "value",
    [{"a": [1, -2, 0.5, None, True, "x"]}, "é😀\u2028", [], {}, "\\ud800", 10**99, {"a": {"a": {"a": 1}}}],
)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_what_json_writes_is_read(value, ensure_ascii):
    assert parse(json.dumps(value, ensure_ascii=ensure_ascii), "it") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not JSON: Expecting value"),
        ("{'a': 1}", "it is not JSON"),
        ("[1, 2", "it is not JSON"),
        ("NaN", "it is not JSON: it holds NaN"),
        ('{"a": [-Infinity]}', "it is not JSON: it holds -Infinity"),
        ("-1e400", "it holds the number -1e400, which is too large"),
        ("9" * 5000, "it holds a number of 5000 digits"),
        ('[{"a": {"b": 1, "c": 2, "b": 1}}]', "it holds the key 'b' twice"),
        ('{"a": "\\ud83d"}', r"it holds '\\ud83d', half of a surrogate pair"),
        ('{"\\uDE00": 1}', r"it holds '\\ude00', half of a surrogate pair"),
        ("[" * 100_000, "it holds lists or objects that are nested too deeply"),
        ('{"a":' * 100_000, "it holds lists or objects that are nested too deeply"),
    ],
)
def test_what_is_no_value_is_named(text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        parse(text, "it")


def test_keys_may_be_there_twice_where_a_file_lists_by_them(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"1": {"a": 1}, "2": {}, "1": {"a": 2}}')
    entries = read_json_file(file, may_repeat=True)
    assert isinstance(entries, Pairs) and entries == [("1", {"a": 1}), ("2", {}), ("1", {"a": 2})]
    file.write_text('{"1": {"a": 1, "a": 2}}')
    with pytest.raises(ValueError, match="a.json holds the key 'a' twice"):
        read_json_file(file, may_repeat=True)


def test_rows_are_numbered_by_the_lines_of_the_file(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"id": 1}\r\n\r\n{"id": "2", "more": null}\r\n')
    assert read_rows(file, {"id": ID}) == [{"id": 1}, {"id": "2", "more": None}]
    with pytest.raises(ValueError, match="a.jsonl, line 3: its 'more' is None, not text"):
        read_rows(file, {"id": ID}, {"more": str})
    with pytest.raises(ValueError, match="a.jsonl, line 1 has no 'more'; it has 'id'"):
        read_rows(file, {"more": str})


@pytest.mark.parametrize("end", [b'{"id": 2', b'{"id": "\xc3', b'{"id": 2}'])
def test_half_a_line_may_be_left_out(tmp_path, end):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"id": 1}\n' + end)
    assert read_rows(file, {"id": ID}, whole_lines=True) == [{"id": 1}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "it is a list, not an object"),
        (None, "it is null, not an object"),
        ({}, "it has no 'a'; it has no fields"),
        ({"a": True}, "it: its 'a' is True, not a whole number"),  # in Python true is a whole number
        ({"a": 1.0}, "it: its 'a' is 1.0, not a whole number"),
        ({"a": 1, "b": 1}, "it: its 'b' is 1, not text or null"),
    ],
)
def test_fields_are_checked(row, message):
    check_fields({"a": 1}, {"a": int}, "it", {"b": (str, type(None))})
    check_fields({"a": True, "b": None}, {"a": object}, "it", {"b": (str, type(None))})
    with pytest.raises(ValueError, match=message):
        check_fields(row, {"a": int}, "it", {"b": (str, type(None))})


def test_a_value_is_shown_in_part_of_a_line():
    deep = parse("[" * 900 + "]" * 900, "it")
    for value in (deep, "x" * 10_000, "\n" * 10_000, list(range(10_000)), {str(key): deep for key in range(1000)}):
        assert len(shown(value)) < 1000 and "\n" not in shown(value)
    assert shown("it's") == repr("it's")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("x" * 5000, "not there"),
        ("a\0b", "not there"),
        ("nothing", "not there"),
        (".", "a folder"),
        ("pipe", "no file"),
    ],
)
def test_what_is_no_file(tmp_path, name, what):
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    assert not is_file(tmp_path / name)
    with pytest.raises(ValueError, match=f"is {what}: name a file"):
        read_rows(tmp_path / name)


def test_a_file_that_cannot_be_written_stays_as_it_is(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    write_rows([{"a": "é"}], file)
    assert file.read_text(encoding="utf-8") == '{"a": "é"}\n'

    def write_half(path, text, encoding):
        path.write_bytes(text.encode(encoding)[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match=r"No space left on device: '.*a.jsonl.new'"):
        write_rows([{"a": "b"}], file)
    assert [found.name for found in tmp_path.iterdir()] == ["a.jsonl"]
    assert read_rows(file) == [{"a": "é"}]
