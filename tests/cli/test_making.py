# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth convert` and `compose`: what they hand on, and which arguments they need."""

import pytest

from flashsloth import cli, convert
from flashsloth.convert import composition


def test_convert_and_compose_delegate(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(convert, "convert_checkpoint", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(convert, "to_original", lambda *args: calls.append(args))
    monkeypatch.setattr(composition, "compose", lambda *args, **kwargs: calls.append((args, kwargs)))
    for arguments in (
        ["convert", "src", "dst", "--tokenizer", "t"],
        ["convert", "--to-original", "src", "dst"],
        ["compose", "dst"],
        ["compose", "--language-model", "l", "--vision-model", "v", "dst", "--no-hd", "--query-layer", "0"],
    ):
        assert cli.main(arguments) == 0
    assert calls == [
        (("src", "dst"), {"tokenizer": "t", "vision_config": None}),
        ("src", "dst"),
        ((composition.LANGUAGE_MODEL, composition.VISION_MODEL, "dst"), {}),
        (("l", "v", "dst"), {"hd": False, "query_layer": 0}),
    ]
    output = capsys.readouterr()
    assert output.out == "dst\ndst\ndst\ndst\n" and output.err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "only-one"], "DST"),
        (["compose"], "DST"),
        (["compose", "dst", "--seed", "x"], "--seed"),
    ],
)
def test_wrong_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    assert words in output.err and output.err.count("\n") == 1
