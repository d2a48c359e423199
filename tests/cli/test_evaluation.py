# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth eval` and `bench`: which options belong together, and what is handed on."""

import pytest
from benchmark_files import TASKS

from flashsloth import bench, cli
from flashsloth.cli import evaluation
from flashsloth.eval.run import BENCHMARKS


def test_the_command_knows_every_benchmark():
    assert set(evaluation.EVAL_TASKS) == set(BENCHMARKS) == set(TASKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "eval needs --task"),
        (["--task", "gqa"], "eval needs --questions"),
        (["--task", "gqa", "--questions", "q"], "eval needs --output"),
        (["--task", "gqa", "--questions", "q", "--output", "o"], "either --model, which is asked, or --answers"),
        (
            ["--task", "gqa", "--questions", "q", "--output", "o", "--model", "m", "--answers", "a"],
            "either --model, which is asked, or --answers",
        ),
        (["--task", "gqa", "--questions", "q", "--output", "o", "--answers", "a", "--write"], "--write needs --model"),
        (["--compare", "a", "b", "--model", "m"], "leave out --model"),
        (["--compare", "a", "b"], "is not there"),
    ],
)
def test_options_that_do_not_belong_together(arguments, message, capsys):
    assert cli.main(["eval", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_bench_gets_all_words_behind_it(monkeypatch):
    calls = []
    monkeypatch.setattr(bench, "main", calls.append)
    assert cli.main(["bench", "--help", "positional"]) == 0
    assert calls == [["--help", "positional"]]
