# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The parser of all commands: its help, and words that none of them takes."""

import subprocess
import sys

import pytest

from flashsloth import cli


def test_help_is_quick_and_complete():
    code = (
        "import sys\nfrom flashsloth import cli\ntry:\n    cli.main(['--help'])\n"
        "except SystemExit as stop:\n    sys.exit(stop.code or 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("ask", "chat", "convert", "compose", "train", "push", "serve", "bench"):
        assert f"\n    {command} " in result.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["dance"], "'dance'"),
        (["ask", "--no-such-option", "Hello?"], "--no-such-option"),
    ],
)
def test_words_that_no_command_takes(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    assert words in output.err and output.err.count("\n") == 1
