# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Conversations as files. That one can be asked on is tested in test_terminal.py."""

import json
import os
from pathlib import Path

import pytest
from model_folders import error_of

from flashsloth.assistant.answer import Answer
from flashsloth.serve.transcript import Turn, save


def turn(
    question: str, text: str, finish_reason: str = "stop", images: tuple[str, ...] = (), hd: bool = False
) -> Turn:
    return Turn(question, images, hd, Answer(text, finish_reason, 3, 20, 9, 0.1, 50.0))


@pytest.fixture
def turns(tmp_path, monkeypatch) -> list[Turn]:
    monkeypatch.chdir(tmp_path)
    images = ("a photo <1>.png", "https://ann:SECRET@host/b.png?sig=SIGN")
    return [
        turn("What is this?", "A *sloth*.", images=images),
        turn("Sure?\nReally?", "Yes, I", "interrupted", hd=True),
        turn("Go on.", "am", "length"),
    ]


def test_json_holds_messages(turns, tmp_path):
    save(Path("talk.JSON"), "lab/sloth", "Be brief.", turns)
    saved = json.loads(Path("talk.JSON").read_text(encoding="utf-8"))
    first = [
        {"type": "image", "path": str(tmp_path / "a photo <1>.png")},
        {"type": "image", "url": "https://host/b.png"},
        {"type": "text", "text": "What is this?"},
    ]
    assert saved["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": first},
        {"role": "assistant", "content": "A *sloth*."},
        {"role": "user", "content": [{"type": "text", "text": "Sure?\nReally?"}]},
        {"role": "assistant", "content": "Yes, I"},
        {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
        {"role": "assistant", "content": "am"},
    ]
    reasons = [(about["hd"], about["finish_reason"]) for about in saved["turns"]]
    assert saved["model"] == "lab/sloth" and reasons == [(False, "stop"), (True, "interrupted"), (False, "length")]


def test_markdown_is_read_from_top_to_bottom(turns, tmp_path):
    save(Path("talk.md"), "lab/sloth", "Be brief.", turns)
    assert Path("talk.md").read_text(encoding="utf-8") == (
        "# A conversation with lab/sloth\n\n## System\n\nBe brief.\n\n"
        f"## Question\n\n![](<{tmp_path}/a photo \\<1\\>.png>)\n\n![](<https://host/b.png>)\n\nWhat is this?\n\n"
        "## Answer\n\nA *sloth*.\n\n"
        "## Question\n\nSure?\nReally?\n\n## Answer\n\nYes, I\n\n*It was stopped.*\n\n"
        "## Question\n\nGo on.\n\n## Answer\n\nam\n\n*It was cut.*\n"
    )


def test_files_that_cannot_be_written(turns, tmp_path):
    def error(name: str, turns=turns) -> str:
        return error_of(save, Path(name), "lab/sloth", None, turns)

    assert "'talk.txt' does not say how to write the conversation: end it in .json or .md" in error("talk.txt")
    assert "There is nothing to write yet" in error("talk.md", [])
    assert "'nope/talk.md' cannot be written (No such file or directory)" in error("nope/talk.md")
    Path("talk.md").write_text("mine")
    assert "'talk.md' exists, and is not overwritten" in error("talk.md")
    assert Path("talk.md").read_text() == "mine" and os.listdir() == ["talk.md"]
