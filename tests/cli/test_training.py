# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth train`, `merge` and `data`: what they hand on, and which arguments they refuse."""

import sys
from pathlib import Path

import pytest

from flashsloth import cli
from flashsloth.train import config, lora, plan, sft


def test_train_and_merge_delegate(monkeypatch, capsys):
    calls = []

    def train_stage(*args):
        sys.stdout.write("loss\n")  # as the trainer does
        calls.append(args)
        return "out/model"

    monkeypatch.setattr(config, "read_config", lambda *args: args)
    monkeypatch.setattr(sft, "train_stage", train_stage)
    monkeypatch.setattr(plan, "describe", lambda *args: calls.append(args) or "plan")
    monkeypatch.setattr(lora, "merge", lambda *args: calls.append(args))
    for arguments in (
        ["train", "stage1.yaml", "learning_rate=1e-3", "seed=1"],
        ["train", "stage1.yaml", "--plan", "--devices", "8", "seed=1"],
        ["merge", "adapter", "dst", "--base", "model"],
    ):
        assert cli.main(arguments) == 0
    assert calls == [
        ((Path("stage1.yaml"), ["learning_rate=1e-3", "seed=1"]),),
        ((Path("stage1.yaml"), ["seed=1", "use_cpu=true", "tf32=null"], 8), 8),
        ("adapter", "dst", "model"),
    ]
    output = capsys.readouterr()
    assert output.out == "out/model\nplan\ndst\n"
    assert output.err == "loss\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "CONFIG.yaml"),
        (["data", "prepare", "mix.json"], "DIR"),
    ],
)
def test_wrong_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    assert words in output.err and output.err.count("\n") == 1


def test_bad_training_configs(tmp_path, capsys):
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("model: a\ndata: b\ntrainable: [lm_head]\noutput_dir: c\nlearning_rat: 1\n")
    for arguments, words in (
        ([str(tmp_path / "absent.yaml")], "absent.yaml"),
        ([str(broken)], "broken.yaml"),
        ([str(unknown)], "learning_rat"),
        ([str(unknown), "nonsense"], "nonsense"),
    ):
        assert cli.main(["train", *arguments]) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1
        assert words in output.err


def test_a_setting_whose_package_is_missing_is_bad_input(monkeypatch, capsys):
    def train_stage(*args):
        raise ImportError("You need to install `bitsandbytes`")

    monkeypatch.setattr(config, "read_config", lambda *args: args)
    monkeypatch.setattr(sft, "train_stage", train_stage)
    assert cli.main(["train", "stage1.yaml", "optim=adamw_bnb_8bit"]) == 2
    expected = "flashsloth train: error: a setting needs a package that is not installed: You need to install"
    assert expected in capsys.readouterr().err
