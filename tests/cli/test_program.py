# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The exit status of the command, and the content of both streams, whatever a command ends with."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flashsloth import cli
from flashsloth.cli import making
from flashsloth.parts import SHIPPED_CHECKPOINT


# What is given: the words of the command, a part of the message, and the exit status. FILE is a text file, IMAGE an
# image, EMPTY an empty folder and UNFINISHED one that an interrupted command left.
BAD_INPUT = {
    "an image in the place of the question": ("flashsloth ask IMAGE", "is an image, not a question: ask --image", 2),
    "an image before the question": ("flashsloth ask IMAGE What?", "is an image, not a question: ask --image", 2),
    "an image behind the question": ("flashsloth ask What? IMAGE", "is an image, not a question: ask --image", 2),
    "an image that is not there": ("flashsloth ask --image nope.png What?", "The image 'nope.png' does not exist", 2),
    "a word for an image": (
        "flashsloth ask --image abcd What?",
        "The image 'abcd' does not exist: give an image file or",
        2,
    ),
    "the URL of a file that is not there": (
        "flashsloth ask --image file:///nope%20a.png What?",
        "The image 'file:///nope%20a.png' is not an existing file",
        2,
    ),
    "a folder for an image": ("flashsloth ask --image EMPTY What?", "is a folder: give an image file or a URL", 2),
    "a text file for an image": ("flashsloth ask --image FILE What?", "is not in a format that Pillow knows", 2),
    "an image and a wrong one": ("flashsloth ask --image IMAGE --image FILE What?", "file.txt' is not in a format", 2),
    "a URL without a server": (
        "flashsloth ask --image http://127.0.0.1:9/a.png What?",
        "http://127.0.0.1:9/a.png' cannot be",
        2,
    ),
    "a URL in capitals without a server": (
        "flashsloth ask --image HTTP://127.0.0.1:9/a.png What?",
        "HTTP://127.0.0.1:9/a.png' cannot be",
        2,
    ),
    "a device that is not there": (
        "flashsloth ask --device cuda:99 What?",
        "This machine has no device 'cuda:99': take 'cpu', or leave it out",
        2,
    ),
    "a word for a device": ("flashsloth ask --device gpu What?", "This machine has no device 'gpu': take 'cpu'", 2),
    "a data URL that is cut": (
        "flashsloth ask --image data:image/png;base64,AAAA What?",
        "is not in a format that Pillow",
        2,
    ),
    "an image for a model": (
        "flashsloth ask --model IMAGE What?",
        "is a file, not a model folder. An image is given with",
        2,
    ),
    "a file for a model": ("flashsloth ask --model FILE What?", "file.txt' is a file, not a model folder.", 2),
    "an empty name for a model": ("flashsloth ask --model= What?", "No model folder at ''", 2),
    "an empty folder for a model": (
        "flashsloth ask --model EMPTY What?",
        "config.json does not exist. Name the folder that",
        2,
    ),
    "a folder that was left over": (
        "flashsloth ask --model UNFINISHED What?",
        "is left over from an interrupted command",
        2,
    ),
    "bytes that are no text": ("flashsloth ask \udcff", "the argument '\\udcff' is not valid UTF-8", 2),
    "an unknown option of a command": (
        "flashsloth push --nope EMPTY lab/model",
        "flashsloth push: error: unrecognized",
        2,
    ),
    "an unknown option of a benchmark": (
        "flashsloth bench --nope",
        "flashsloth bench: error: unrecognized arguments",
        2,
    ),
    "a wrong number for a benchmark": (
        "flashsloth bench train --rows x",
        "flashsloth bench train: error: argument --rows",
        2,
    ),
    "a word too many for a benchmark": (
        "flashsloth bench quantize word",
        "flashsloth bench quantize: error: unrecogn",
        2,
    ),
    "no folder to convert": ("flashsloth convert nope DST", "No model folder at 'nope'; give a folder or a Hub id", 2),
    "no folder to quantize": ("flashsloth quantize nope DST --weights int8", "No model folder at 'nope'", 2),
    "an image to quantize": ("flashsloth quantize IMAGE DST --weights int8", "is a file, not a model folder", 2),
    "no folder to push": ("flashsloth push nope lab/model", "nope is not a folder", 2),
    "no adapter to merge": ("flashsloth merge nope DST", "No adapter at 'nope'", 2),
    "no stage": ("flashsloth train nope.yaml", "There is no file nope.yaml", 2),
    "a folder for a stage": ("flashsloth data check EMPTY", "flashsloth data check: error: ", 2),
    "no language model": (
        "flashsloth compose --language-model nope --vision-model nope DST",
        "No model folder at 'nope'",
        2,
    ),
    "no name of a language model": (
        "flashsloth compose --language-model= --vision-model nope DST",
        "No model folder at ''",
        2,
    ),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_bad_input_is_one_line(given, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"IMAGE": "an image.png", "FILE": "file.txt", "EMPTY": "empty", "UNFINISHED": "a.incomplete-01234567"}
    shutil.copy(image, names["IMAGE"])
    Path(names["FILE"]).write_text("text")
    Path(names["EMPTY"]).mkdir()
    shutil.copytree(SHIPPED_CHECKPOINT, names["UNFINISHED"])
    command, message, status = BAD_INPUT[given]
    words = command.split()[1:]
    try:
        found = cli.main([names.get(word, word) for word in words])
    except SystemExit as stop:  # of argparse
        found = stop.code
    output = capsys.readouterr()
    (line,) = [line for line in output.err.splitlines() if not line.startswith(("Loading ", "Building "))]
    assert found == status and output.out == ""
    assert line.startswith(f"flashsloth {words[0]}") and ": error: " in line and message in line
    assert "Errno" not in line or "http" in command.lower()
    assert not Path("DST").exists()


@pytest.mark.parametrize(
    ("raised", "status", "last_line"),
    [
        (ValueError("pooling_size=4 is wrong.\n  Choose 3."), 2, "error: pooling_size=4 is wrong. Choose 3."),
        (FileNotFoundError("no such file"), 2, "error: no such file"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (RuntimeError("out of memory"), 1, "RuntimeError: out of memory"),
    ],
)
def test_exit_status(raised, status, last_line, monkeypatch, capsys):
    def fail(args):
        raise raised

    monkeypatch.setattr(making, "run_compose", fail)
    assert cli.main(["compose", "--language-model", "a", "--vision-model", "b", "c"]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].endswith(last_line)
    assert (status == 1) == ("Traceback" in output.err)


@pytest.mark.parametrize("error", [MemoryError("32 GB"), torch.OutOfMemoryError("32 GB")])
def test_too_little_memory_is_one_line(error, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(making, "run_compose", fail)
    assert cli.main(["compose", "dst"]) == 1
    assert capsys.readouterr().err == "flashsloth compose: error: there is not enough memory: 32 GB\n"


def test_traceback_option_shows_the_traceback_of_bad_input(capsys):
    arguments = ["convert", "--to-original", "--tokenizer", "t", "a", "b"]
    assert cli.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["--traceback", *arguments]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("line", "status", "answers"),
    [
        ("{ask} | true; exit ${{PIPESTATUS[0]}}", 141, False),
        ("{python} -m flashsloth --help | true; exit 0", 0, False),
        ("{ask} >&- 2>&-", 0, False),
        ("{ask} <&- >&-", 0, True),
        ("{ask} > /dev/full", 1, False),
    ],
)
def test_streams_that_are_closed(line, status, answers, image):
    ask = f"{sys.executable} -m flashsloth ask --image '{image}' --max-new-tokens 4 'What colour is the square?'"
    command = line.format(ask=ask, python=sys.executable)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert ("Answered in" in done.stderr) == answers
    assert done.stderr.count("error:") == (status == 1)
