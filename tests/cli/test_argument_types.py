# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Arguments of a wrong type are refused in one line."""

import pytest

from flashsloth import cli


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask", "  "], "the question is empty"),
        (["ask", "--max-new-tokens", "0", "Hello?"], "'0' is not a whole number of 1 or more"),
        (["data", "prepare", "mix.json", "images", "--threads", "0"], "'0' is not a whole number"),
        (["chat", "--temperature", "inf"], "'inf' is not a number above 0; leave it out"),
        (["chat", "--top-p", "nan"], "'nan' is not a number above 0 and up to 1"),
        (["serve", "--port", "-1"], "'-1' is not a port: a number from 0 to 65535"),
    ],
)
def test_an_argument_of_the_wrong_type_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    assert words in output.err and output.err.count("\n") == 1
