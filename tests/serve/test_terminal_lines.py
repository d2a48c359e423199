# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Entries of a pipe, and the file that keeps typed lines. What a terminal does is tested in test_terminal.py."""

import io
import sys

import pytest
from model_folders import error_of

from flashsloth.serve import terminal_lines
from flashsloth.serve.terminal_completion import Completion
from flashsloth.serve.terminal_lines import Lines, history_file


NOTHING = Completion(())


def piped(content: bytes, monkeypatch) -> Lines:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    return Lines(NOTHING, None, pytest.fail)


def test_entries_of_a_pipe(monkeypatch, capsys):
    lines = piped(b"one\n\ntwo \\\nthree\r\nC:\\\\\nlast\\", monkeypatch)
    assert not lines.is_interactive and not lines.can_edit
    entries = [(lines.read("> "), lines.number) for _ in range(6)]
    assert entries == [("one", 1), ("", 2), ("two \nthree", 4), ("C:\\\\", 5), ("last", 7), (None, 8)]
    assert capsys.readouterr() == ("", "")  # no prompt


def test_a_byte_order_mark_is_no_part_of_the_first_line(monkeypatch):
    lines = piped(b"\xef\xbb\xbf/image a.png\n\xef\xbb\xbfb\n", monkeypatch)
    assert [lines.read(""), lines.read("")] == ["/image a.png", "\ufeffb"]


def test_the_line_that_is_no_utf_8_is_the_one_that_fails(monkeypatch):
    lines = piped("Größe?\n".encode() + "Größe?\n".encode("latin-1"), monkeypatch)
    assert lines.read("") == "Größe?"
    assert "The line is not valid UTF-8" in error_of(lines.read, "") and lines.number == 2


def test_input_that_cannot_be_read(monkeypatch):
    assert "The line is not valid UTF-8" in error_of(piped(b"\xff\n", monkeypatch).read, "")
    monkeypatch.setattr(sys, "stdin", None)
    assert "Standard input is closed" in error_of(Lines, NOTHING, None, pytest.fail)


class Typed(io.StringIO):
    """What is typed at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def editor(monkeypatch):
    """An editor of lines at a terminal, with a history of its own."""
    if terminal_lines.readline is None:
        pytest.skip("needs readline, which Python lacks here")
    monkeypatch.setenv("TERM", "xterm")

    def make(history, typed=(), on_problem=pytest.fail) -> Lines:
        entered = iter(typed)
        monkeypatch.setattr(sys, "stdin", Typed())
        monkeypatch.setattr(sys, "stdout", Typed())
        monkeypatch.setattr("builtins.input", lambda prompt: next(entered))
        return Lines(NOTHING, history, on_problem)

    yield make
    terminal_lines.readline.clear_history()


def recalled() -> list[str]:
    readline = terminal_lines.readline
    return [readline.get_history_item(index + 1) for index in range(readline.get_current_history_length())]


def test_lines_are_kept_for_the_next_time(editor, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = history_file()
    assert file == tmp_path / "state" / "flashsloth" / "chat_history"
    lines = editor(file, ["What?", "", "first \\", "sécond", "pasted\nlines"])
    assert [lines.read("> ") for _ in range(4)] == ["What?", "", "first \nsécond", "pasted\nlines"]
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    editor(file)
    assert recalled() == ["What?", "first \\", "sécond", "pasted", "lines"]
    assert editor(None, ["Kept nowhere"]).read("> ") == "Kept nowhere"
    editor(file)
    assert "Kept nowhere" not in recalled()


def test_a_long_history_is_cut(editor, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal_lines, "MAX_HISTORY", 3)
    file = tmp_path / "history"
    file.write_text("".join(f"{number}\n" for number in range(7)))
    editor(file)
    assert recalled() == ["4", "5", "6"] == file.read_text().split()
    assert [path.name for path in tmp_path.iterdir()] == ["history"]


@pytest.mark.parametrize("problem", ["folder", "bytes"])
def test_a_history_that_cannot_be_used_is_named_once(editor, tmp_path, problem):
    file = tmp_path / "history"
    if problem == "folder":
        (tmp_path / "file").touch()
        file = tmp_path / "file" / "history"
    else:
        file.write_bytes(b"\xff\n")
    told = []
    lines = editor(file, ["one", "two"], told.append)
    assert [lines.read("> "), lines.read("> ")] == ["one", "two"]
    (message,) = told
    assert f"Lines are not kept in '{file}' (" in message and "--no-history keeps none" in message


def test_a_terminal_that_cannot_edit(editor, monkeypatch):
    assert editor(None).can_edit
    for term in ("dumb", ""):
        monkeypatch.setenv("TERM", term)
        assert not editor(None).can_edit
    monkeypatch.delenv("TERM")
    assert not editor(None).can_edit
