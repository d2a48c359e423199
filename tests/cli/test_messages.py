# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What is said on standard error has no secrets."""

import pytest

from flashsloth import cli


PRIVATE = "http://user:PASSWORD@127.0.0.1:9/a/b?sig=SIGN#PART"


@pytest.mark.parametrize(
    "words",
    [
        ["ask", "--image", PRIVATE, "What?"],
        ["ask", "--image", PRIVATE.upper(), "What?"],
        ["ask", "--image", f" {PRIVATE}", "What?"],
        ["ask", "--image", f"{PRIVATE.partition('?')[0]}{'/long' * 99}", "What?"],
        ["ask", "--model", PRIVATE, "What?"],
        ["ask", PRIVATE.replace("/a/b?sig=SIGN#PART", "/a.png")],
        ["ask", "What?", PRIVATE],
        ["ask", "--hd=" + PRIVATE, "What?"],
        ["convert", PRIVATE, "DST"],
        ["convert", "--to-original", PRIVATE, "DST"],
        ["compose", "--language-model", PRIVATE, "DST"],
        ["quantize", PRIVATE, "DST", "--weights", "int8"],
        ["merge", PRIVATE, "DST"],
        ["push", PRIVATE, "lab/model"],
        ["push", "EMPTY", PRIVATE],
        ["train", PRIVATE],
        ["data", "check", PRIVATE],
        ["data", "prepare", PRIVATE, PRIVATE],
        ["eval", "--task", "pope", "--questions", PRIVATE, "--model", PRIVATE, "--output", "out"],
        ["bench", "--model", PRIVATE],
        ["bench", PRIVATE],
    ],
    ids=" ".join,
)
def test_secrets_of_addresses_are_not_written(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        assert cli.main(words) == 2
    except SystemExit as stop:  # of argparse
        assert stop.code == 2
    output = capsys.readouterr()
    assert output.out == "" and "error: " in output.err
    for secret in ("user:", "USER:", "PASSWORD", "SIGN", "PART"):
        assert secret not in output.err
