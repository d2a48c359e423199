# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Programs of model folders run elsewhere, within bounds."""

import sys

import pytest

from flashsloth.folders import trial
from flashsloth.folders.trial import run_trial


def run(body: str, **arguments) -> dict:
    return run_trial(f"def trial(**arguments):\n    {body}\n", arguments, 2, "a word")


def test_what_works_gives_its_result():
    assert run("return {'words': arguments['words'] * 2}", words=["日"]) == {"words": ["日", "日"]}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise ValueError('a\\nb')", "does not work (ValueError: a b)"),
        ("while True: pass", "takes more than 2 seconds for a word"),
        ("import os; os.abort()", "ends the process that tries it (status -6)"),
    ],
)
def test_what_does_not_work_is_said(body, error, capfd):
    assert run(body) == {"error": error}
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound the memory of a process")
def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(trial, "MEMORY_BYTES", 1 << 30)
    assert run("bytearray(2 << 30)") == {"error": "does not work (MemoryError:)"}
