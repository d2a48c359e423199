# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The five benchmarks from question file to score, by the command line and with the shipped checkpoint: after a kill, by
two processes, and with an image that is damaged.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from benchmark_files import read_lines, write_benchmark

from flashsloth import cli, loading
from flashsloth.eval import asking, greedy
from flashsloth.eval.run import BENCHMARKS
from flashsloth.image_reading_flashsloth import MISSING_IMAGE, ImageError
from flashsloth.loading import SHIPPED_CHECKPOINT


def arguments_of(files, output: Path, *more: str) -> list[str]:
    model = ["--model", str(SHIPPED_CHECKPOINT), "--dtype", "float32"]
    return ["eval", *files.arguments, *model, "--output", str(output), *more]


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_question_file_to_score(any_benchmark, tmp_path, capsys):
    output = tmp_path / "out"
    assert cli.main(arguments_of(any_benchmark, output)) == 0
    printed = last_line(capsys)
    report = json.loads((output / "report.json").read_text())
    answers = read_lines(output / "answers.jsonl")
    assert printed == {name: report[name] for name in ("task", "questions", "scores")}
    assert [row["question_id"] for row in answers] == [row["question_id"] for row in any_benchmark.right]
    assert all(row["text"] and row["model_id"] == "flashsloth-tiny" for row in answers)
    if any_benchmark.task != "mmbench":
        assert [row["prompt"] for row in answers] == [row["prompt"] for row in any_benchmark.right]
    assert report["model"]["folder"] == "flashsloth-tiny" and len(report["model"]["sha256"]) == 64
    assert report["settings"]["max_new_tokens"] == (1024 if any_benchmark.task == "mmbench" else 128)
    assert report["versions"].keys() >= {"flashsloth", "torch", "transformers"}
    # The file of answers is what --answers takes, and gives the same scores.
    given = [*any_benchmark.arguments, "--answers", str(output / "answers.jsonl"), "--output", str(tmp_path / "again")]
    assert cli.main(["eval", *given[:-1], str(output)]) == 2  # the folder of a model's answers stays what it is
    assert cli.main(["eval", *given]) == 0
    assert last_line(capsys)["scores"] == report["scores"]


KEYS = {
    "gqa": {"accuracy", "binary", "open"},
    "pope": {"random", "popular", "adversarial", "mean_f1"},
    "mme": {"perception", "cognition", "categories"},
    "textvqa": {"accuracy"},
    "mmbench": {"circular_accuracy", "vanilla_accuracy", "l2_category"},
}


def test_right_answers_have_the_full_score(any_benchmark, tmp_path, capsys):
    answers = any_benchmark.write_answers(tmp_path / "answers.jsonl")
    output = str(tmp_path / "out")
    assert cli.main(["eval", *any_benchmark.arguments, "--answers", str(answers), "--output", output]) == 0
    scores = last_line(capsys)["scores"]
    assert scores.keys() == KEYS[any_benchmark.task]
    full = {"accuracy": 100, "circular_accuracy": 100, "mean_f1": 100, "perception": 400, "cognition": 200}
    assert all(scores[name] == full[name] for name in scores.keys() & full.keys())


def start(command: list[str], **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_kill_in_the_middle_and_the_same_command_again(tmp_path, capsys):
    files = write_benchmark("pope", tmp_path / "pope")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(["flashsloth", *arguments_of(files, killed, "--batch-size", "1")])
    part = killed / "answers.part-0.jsonl"
    while process.poll() is None and not (part.is_file() and part.read_bytes().count(b"\n") >= 3):
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not (killed / "report.json").exists()
    kept = read_lines(part)
    assert 3 <= len(kept) < 12
    for output in (killed, whole):
        assert cli.main(arguments_of(files, output, "--batch-size", "1")) == 0
    capsys.readouterr()
    for name in ("report.json", "answers.jsonl", "outcomes.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert all(row in read_lines(killed / "answers.jsonl") for row in kept)


def test_a_finished_run_asks_nothing(tmp_path, capsys, monkeypatch):
    files = write_benchmark("gqa", tmp_path / "gqa")
    assert cli.main(arguments_of(files, tmp_path / "out")) == 0
    first = last_line(capsys)
    monkeypatch.setattr(loading, "load_model_and_processor", None)  # the model is not loaded
    assert cli.main(arguments_of(files, tmp_path / "out")) == 0
    assert last_line(capsys) == first


def test_two_processes_give_the_report_of_one(tmp_path, capsys):
    files = write_benchmark("pope", tmp_path / "pope")
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main(arguments_of(files, one, "--batch-size", "2")) == 0
    printed = capsys.readouterr().out
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "flashsloth"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = start([*launcher, *arguments_of(files, two, "--batch-size", "2")], env=environment)
    output, log = process.communicate(timeout=300)
    assert process.returncode == 0, log[-3000:]
    assert output == printed
    for name in ("report.json", "answers.jsonl", "outcomes.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert not list(two.glob("*.part-*"))


def test_a_damaged_image_makes_the_run_fail_at_its_end(tmp_path, capsys):
    files = write_benchmark("gqa", tmp_path / "gqa")
    image = files.images / "n336443.jpg"
    sound = image.read_bytes()
    image.write_bytes(sound[: len(sound) // 2])
    assert cli.main(arguments_of(files, tmp_path / "out")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 4 questions failed" in error and "201640614" in error
    failures = read_lines(tmp_path / "out" / "failures.jsonl")
    assert {row["question_id"] for row in failures} == {"201640614", "202225914"}
    assert not (tmp_path / "out" / "report.json").exists()
    assert all(row["text"] for row in read_lines(tmp_path / "out" / "answers.part-0.jsonl"))
    # Once it is repaired, the same command asks the two.
    image.write_bytes(sound)
    assert cli.main(arguments_of(files, tmp_path / "out")) == 0
    log = capsys.readouterr().err
    assert "2/4" in log and "4/4" in log
    assert not (tmp_path / "out" / "failures.jsonl").exists()
    # An image that was answered must not change.
    image.write_bytes(sound + b"more")
    assert cli.main(arguments_of(files, tmp_path / "out")) == 2
    assert "holds an answer about another image n336443.jpg" in capsys.readouterr().err


# What fails late: an error of a batch, a part of the line, and the exit status.
LATE = {
    "an image that was removed": (
        ImageError("the image of question '1' is not an existing file.", MISSING_IMAGE),
        "4 of 4 questions failed, so there is no score (the image of question '1' is not an existing file.; ",
        2,
    ),
    "a disk that cannot be read": (
        OSError(errno.EIO, "Input/output error"),
        "4 of 4 questions failed, so there is",
        1,
    ),
    "too little memory": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        "there is not enough memory: for a batch of 4 (CUDA out of memory. Tried to allocate 2.00 GiB.): lower",
        1,
    ),
    "a device that fails": (
        torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be"),
        "The device has failed (CUDA error: unspecified launch failure",
        1,
    ),
}


@pytest.mark.parametrize(("error", "message", "status"), LATE.values(), ids=LATE)
def test_the_exit_status_says_whether_the_input_is_to_blame(tmp_path, capsys, monkeypatch, error, message, status):
    files = write_benchmark("gqa", tmp_path / "gqa")

    def fail(model, questions):
        raise error

    monkeypatch.setattr(greedy.GreedyModel, "__call__", fail)
    assert cli.main(arguments_of(files, tmp_path / "out")) == status
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if "error: " in line]
    assert line.startswith("flashsloth eval: error: ") and message in line
    assert not (tmp_path / "out" / "report.json").exists()
    monkeypatch.undo()
    assert cli.main(arguments_of(files, tmp_path / "out")) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_full_disk_has_status_1(tmp_path):
    files = write_benchmark("gqa", tmp_path / "gqa")
    answers, output = files.write_answers(tmp_path / "a.jsonl"), tmp_path / "out"
    code = (
        "import resource, sys\nfrom flashsloth import cli\nhard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))\nsys.exit(cli.main(sys.argv[1:]))"
    )
    command = ["eval", *files.arguments, "--answers", str(answers), "--output", str(output)]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    *_, line = done.stderr.splitlines()
    assert line == f"flashsloth eval: error: '{output / 'outcomes.json.new'}': File too large"
    assert not list(output.glob("*.json*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hd"], "differs in its settings"),
        (["--dtype", "bfloat16"], "differs in its dtype"),
    ],
)
def test_answers_of_another_run_are_not_taken(tmp_path, capsys, more, message):
    files = write_benchmark("textvqa", tmp_path / "textvqa")
    output = tmp_path / "out"
    assert cli.main(arguments_of(files, output)) == 0
    (output / "answers.jsonl").write_text("".join((output / "answers.jsonl").open().readlines()[:1]))
    assert cli.main(arguments_of(files, output, *more)) == 2
    assert message in capsys.readouterr().err


def test_answers_of_nobody_are_not_taken(tmp_path, capsys):
    files = write_benchmark("textvqa", tmp_path / "textvqa")
    files.write_answers(tmp_path / "out" / "answers.jsonl")
    assert cli.main(arguments_of(files, tmp_path / "out")) == 2
    assert "answers of which nothing says whose" in capsys.readouterr().err


def test_scores_go_into_the_model_folder(tmp_path, capsys):
    files = write_benchmark("gqa", tmp_path / "gqa")
    model = shutil.copytree(SHIPPED_CHECKPOINT, tmp_path / "model")
    before = json.loads((model / "evaluation.json").read_text())
    command = ["eval", *files.arguments, "--model", str(model), "--output", str(tmp_path / "out"), "--write"]
    assert cli.main(command) == 0
    scores = last_line(capsys)["scores"]
    after = json.loads((model / "evaluation.json").read_text())
    assert after[: len(before)] == before
    assert {entry["metric"]: entry["value"] for entry in after[len(before) :]} == scores
    assert cli.main(["push", str(model), "me/model", "--license", "mit", "--dry-run"]) == 0
    # The model is the same one for the next run, which adds nothing.
    assert cli.main(command) == 0
    assert json.loads((model / "evaluation.json").read_text()) == after


@pytest.mark.parametrize("model", [str(SHIPPED_CHECKPOINT), "owner/name"])
def test_scores_to_write_need_labels_and_a_folder(tmp_path, capsys, monkeypatch, model):
    """Neither is a reason to download or load a model."""
    monkeypatch.setattr(loading, "find_flashsloth", None)
    files = write_benchmark("gqa", tmp_path / "gqa")
    command = ["eval", "--task", "gqa", "--questions", str(files.questions), "--images", str(files.images), "--write"]
    command += ["--model", model, "--output", str(tmp_path / "out")]
    assert cli.main(command) == 2
    assert "--write needs --labels: without them there are no scores to write" in capsys.readouterr().err
    if model == "owner/name":
        assert cli.main([*command, "--labels", str(files.labels)]) == 2
        assert "and owner/name is none: name one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_before_anything_is_asked(tmp_path, capsys, monkeypatch):
    files = write_benchmark("mmbench", tmp_path / "mmbench")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert cli.main(arguments_of(files, tmp_path / "out")) == 2
    assert "needs openpyxl; install it with: pip install 'flashsloth[mmbench]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_report_is_of_the_answers_beside_it(any_benchmark, tmp_path, capsys):
    output, given = tmp_path / "out", any_benchmark.write_answers(tmp_path / "given.jsonl")
    assert cli.main(["eval", *any_benchmark.arguments, "--answers", str(given), "--output", str(output)]) == 0
    assert cli.main(arguments_of(any_benchmark, output)) == 2  # those were not the model's
    assert "holds the report of given answers (report.json)" in capsys.readouterr().err
    output = tmp_path / "model"
    assert cli.main(arguments_of(any_benchmark, output)) == 0
    (output / "answers.jsonl").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "ask_all", interrupted)
        assert cli.main(arguments_of(any_benchmark, output)) == 130
    assert {file.name for file in output.iterdir()} == {"answers.jsonl", "run.json", "run.lock"}


def interrupted(*args):
    raise KeyboardInterrupt


def test_scores_of_a_set_of_your_own_say_so(any_benchmark, tmp_path, capsys, caplog):
    model = tmp_path / "model"
    shutil.copytree(SHIPPED_CHECKPOINT, model)
    command = ["eval", *any_benchmark.arguments, "--model", str(model), "--output", str(tmp_path / "out"), "--write"]
    assert cli.main(command) == 0
    benchmark = BENCHMARKS[any_benchmark.task]
    assert f"those of {benchmark.title} {benchmark.split} are {benchmark.sizes[0]:,}" in caplog.text
    entries = json.loads((model / "evaluation.json").read_text())
    splits = {entry["dataset"]["split"] for entry in entries if entry["dataset"]["config"] == "LLaVA-1.5 protocol"}
    assert splits == {"questions of your own"}
    for option in ("--hd", "--no-hd"):
        assert cli.main([*command, option]) == 2
        assert f"leave out {option}" in capsys.readouterr().err


def test_a_finished_run_is_what_it_was(tmp_path, capsys):
    files, output = write_benchmark("pope", tmp_path / "pope"), tmp_path / "out"
    shutil.copytree(SHIPPED_CHECKPOINT, tmp_path / "other-name")
    assert cli.main(arguments_of(files, output, "--hd")) == 0
    assert json.loads((output / "report.json").read_text())["command"].endswith(" --hd")
    assert cli.main(arguments_of(files, output, "--hd", "--dtype", "float16")) == 2
    assert "differs in its dtype" in capsys.readouterr().err
    assert cli.main(arguments_of(files, output, "--hd", "--model", str(tmp_path / "other-name"))) == 0
