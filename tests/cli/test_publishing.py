# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth push`: what it hands on, and which options it refuses."""

import pytest

from flashsloth import cli
from flashsloth.publish import hub


def test_push_hands_on_what_the_repository_and_its_card_get(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(hub, "push", lambda *args, **options: calls.append((args, options)) or "https://hub/lab/model")
    options = ["--private", "--create-pr", "--language", "en", "--language", "nl", "--base-model", "lab/base"]
    assert cli.main(["push", "model", "lab/model", *options]) == 0
    assert cli.main(["push", "model", "lab/model", "--message", "New", "--license", "mit", "--keep-card"]) == 0
    (first, second) = (options for _, options in calls)
    assert [args for args, _ in calls] == [("model", "lab/model")] * 2
    assert (first["private"], first["create_pr"], first["message"]) == (True, True, hub.MESSAGE)
    assert (first["languages"], first["base_models"], first["license"]) == (["en", "nl"], ["lab/base"], None)
    assert (second["private"], second["create_pr"], second["message"]) == (False, False, "New")
    assert (second["languages"], second["license"], second["keep_card"]) == ([], "mit", True)
    assert capsys.readouterr().out == "https://hub/lab/model\n" * 2


@pytest.mark.parametrize(
    "option",
    [
        ["--card", "card.md"],
        ["--license", "mit"],
        ["--language", "en"],
        ["--dataset", "lab/data"],
        ["--base-model", "lab/base"],
        ["--example", "image.png", "What?"],
        ["--keep-card"],
    ],
    ids=" ".join,
)
def test_a_space_takes_no_option_of_a_model_card(option, capsys):
    assert cli.main(["push", "--space", "folder", "lab/space", *option]) == 2
    expected = f"flashsloth push: error: {option[0]} is for the card of a model: leave it out with --space.\n"
    assert capsys.readouterr().err == expected
