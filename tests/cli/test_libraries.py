# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What libraries say is kept back, and one that is missing is named in one line with its remedy."""

import json
import subprocess
import sys
import textwrap
import warnings

import pytest
from transformers.utils import logging as transformers_logging

from flashsloth import FlashSlothForCausalLM, cli
from flashsloth.parts import SHIPPED_CHECKPOINT


# Runs commands in a process where imports of some packages fail, and prints the status and the lines of each.
PROGRAM = """
import contextlib, io, json, sys
packages, commands = map(json.loads, sys.argv[1:])
sys.modules |= dict.fromkeys(packages)
from flashsloth.cli import main
results = []
for command in commands:
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        status = main(command)
    results.append([status, errors.getvalue().splitlines()])
print(json.dumps(results))
"""
MODEL = str(SHIPPED_CHECKPOINT)
POPE = "--task pope --questions pope.jsonl --images . --output out".split()
# Commands that need torch, and the end of the line that says so.
WITH_TORCH = {
    "ask": (["ask", "What?"], "'torch>=2.13'"),
    "chat": (["chat"], "'torch>=2.13'"),
    "convert": (["convert", MODEL, "dst"], "'torch>=2.13'"),
    "convert --to-original": (["convert", "--to-original", MODEL, "dst"], "'torch>=2.13'"),
    "compose": (["compose", "dst"], "'torch>=2.13'"),
    "quantize": (["quantize", MODEL, "dst", "--weights", "int8"], "'flashsloth[quantize]'"),
    "export": (["export", MODEL, "dst", "--format", "onnx"], "'flashsloth[export]'"),
    "export --format executorch": (["export", MODEL, "dst", "--format", "executorch"], "'flashsloth[executorch]'"),
    "train": (["train", "stage.yaml"], "'flashsloth[train]'"),
    "train --plan": (["train", "stage.yaml", "--plan"], "'flashsloth[train]'"),
    "merge": (["merge", "adapter", "dst"], "'flashsloth[train]'"),
    "data check": (["data", "check", "stage.yaml"], "'flashsloth[train]'"),
    "eval": (["eval", "--model", MODEL, *POPE], "'torch>=2.13'"),
    "answer": (["answer", "asked.jsonl", "--output", "answers"], "'torch>=2.13'"),
    "push": (["push", MODEL, "owner/name", "--dry-run"], "'torch>=2.13'"),
    "demo": (["demo"], "'flashsloth[demo]'"),
    "serve": (["serve", "--port", "0"], "'torch>=2.13'"),
    "bench": (["bench"], "'torch>=2.13'"),
    "bench --help": (["bench", "--help"], "'torch>=2.13'"),
    "bench chat": (["bench", "chat"], "'torch>=2.13'"),
    "bench convert": (["bench", "convert"], "'torch>=2.13'"),
    "bench train": (["bench", "train"], "'flashsloth[train]'"),
    "bench serve": (["bench", "serve"], "'flashsloth[train,serve]'"),
    "bench export": (["bench", "export"], "'flashsloth[export]'"),
}


def run_without(packages: list[str], commands: list[list[str]], folder) -> list[tuple[int, list[str]]]:
    """The exit status and the lines on standard error of each command, where packages are not installed."""
    arguments = map(json.dumps, (packages, commands))
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_torch_a_command_names_it_in_one_line(tmp_path):
    rows = [{"question_id": 1, "image": "a.png", "text": "Is it?", "category": "random"}]
    (tmp_path / "pope.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "asked.jsonl").write_text('{"question": "Is it?", "image": "a.png"}')
    (tmp_path / "a.png").touch()
    results = run_without(["torch"], [words for words, _ in WITH_TORCH.values()], tmp_path)
    for (words, remedy), (status, lines) in zip(WITH_TORCH.values(), results, strict=True):
        *notices, line = lines
        assert status == 2 and all(notice.startswith("Loading ") for notice in notices), lines
        assert line.startswith(f"flashsloth {words[0]}") and "needs torch; install it with: pip install " in line
        assert remedy in line, line
    assert not (tmp_path / "dst").exists()


def test_a_space_is_written_and_pushed_without_torch(exported, tmp_path):
    commands = [
        ["demo", "--space", "space", "--static", "--model", str(exported)],
        ["push", "--space", "space", "owner/name", "--dry-run"],
    ]
    assert run_without(["torch"], commands, tmp_path) == [[0, []], [0, []]]


@pytest.mark.parametrize(
    ("package", "command", "line"),
    [
        ("ray", ["answer", "a", "--output", "b"], "answer needs ray; install it with: pip install 'ray[data]"),
        ("uvicorn", ["serve"], "serve: error: serve needs uvicorn; install it with: pip install 'starlette>=1.0'"),
        (
            "onnxruntime",
            ["ask", "--backend", "onnxruntime", "Hi"],
            "needs onnxruntime; install it with: pip install",
        ),
        ("numpy", ["push", "--space", "a", "b/c"], "push needs numpy; install it with: pip install 'numpy>=2.4'"),
        ("yaml", ["push", "--space", "a", "b/c"], "push needs yaml; install it with: pip install 'pyyaml'"),
        (
            "httpx2",
            ["ask", "Hi"],
            "flashsloth needs httpx2; install it with: pip install 'httpx2>=2.0'",
        ),
    ],
)
def test_who_has_no_torch_installs_what_is_missing_and_no_torch(package, command, line, tmp_path):
    [(status, lines)] = run_without(["torch", package], [command], tmp_path)
    assert status == 2 and line in lines[-1] and "torch" not in lines[-1]
    assert len(lines) == 1 or lines[0].startswith("Loading ")


def test_with_torch_an_extra_is_named(tmp_path):
    extras = {"ray": "cluster", "trl": "train", "torchao": "quantize"}
    commands = [["answer", "a", "--output", "b"], ["train", "a.yaml"], ["quantize", "a", "b", "--weights=int8"]]
    results = run_without([*extras], commands, tmp_path)
    for (package, extra), [command, *_], (status, lines) in zip(extras.items(), commands, results, strict=True):
        what = f"{command} needs {package}; install it with: pip install 'flashsloth[{extra}]'"
        assert (status, lines) == (2, [f"flashsloth {command}: error: {what}"])


def test_an_import_that_fails_within_the_package_is_a_fault(tmp_path):
    [(status, lines)] = run_without(["flashsloth.convert"], [["convert", "a", "b"]], tmp_path)
    assert status == 1 and lines[0].startswith("Traceback")


def test_notices_of_libraries_stay_out_of_the_answer(image, monkeypatch, capsys):
    generate = FlashSlothForCausalLM.generate

    def with_notices(*args, **kwargs):
        warnings.warn("a notice of torch", stacklevel=1)
        transformers_logging.get_logger("transformers.generation").warning("a notice of transformers")
        return generate(*args, **kwargs)

    monkeypatch.setattr(FlashSlothForCausalLM, "generate", with_notices)
    assert cli.main(["ask", "--image", image, "--max-new-tokens", "4", "What colour is the square?"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["Loading", "Loaded", "Answer:", "Answered"]
