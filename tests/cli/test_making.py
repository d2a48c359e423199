# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth convert`, `compose`, `quantize` and `export`: what they hand on, and which arguments they need."""

import sys

import pytest

from flashsloth import cli, convert
from flashsloth.convert import composition, quantization
from flashsloth.export import executorch, onnx


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


def test_quantize_and_export_delegate(monkeypatch, capsys):
    calls = []

    def recorded(name):
        def record(*args, **kwargs):
            sys.stdout.write("progress")  # of a library, which must not get between the results
            calls.append((name, args, kwargs))

        return record

    monkeypatch.setattr(quantization, "quantize", recorded("quantize"))
    monkeypatch.setattr(onnx, "export_onnx", recorded("onnx"))
    monkeypatch.setattr(executorch, "export_executorch", recorded("executorch"))
    for arguments in (
        ["quantize", "src", "dst", "--weights", "int4", "--group-size", "64"],
        ["export", "src", "dst", "--format", "onnx"],
        ["export", "src", "dst", "--format", "onnx", "--weights", "int4", "--weights", "float32"],
        [
            "export",
            "src",
            "dst",
            "--format",
            "executorch",
            "--weights",
            "int8",
            "--max-length",
            "9",
            "--max-views",
            "2",
        ],
    ):
        assert cli.main(arguments) == 0
        output = capsys.readouterr()
        assert output.out == "dst\n" and "progress" in output.err
    assert calls == [
        ("quantize", ("src", "dst", "int4"), {"group_size": 64}),
        ("onnx", ("src", "dst", ["float32"]), {}),
        ("onnx", ("src", "dst", ["int4", "float32"]), {}),
        ("executorch", ("src", "dst", "int8", 9, 2), {}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--max-length", "9"], "--max-length and --max-views belong to --format executorch"),
        (["--format", "executorch", "--weights", "int4"], "int4"),
        (["--format", "executorch", "--weights", "int8", "--weights", "float32"], "one"),
    ],
)
def test_options_of_another_format_are_refused(arguments, message, tmp_path, capsys):
    assert cli.main(["export", "src", str(tmp_path / "dst"), *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == "" and message in output.err and not any(tmp_path.iterdir())
