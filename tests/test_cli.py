# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The command line: its exit status, and the content of both streams. The shipped checkpoint answers."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from flashsloth import FlashSlothForCausalLM, cli, loading
from flashsloth.folders.new_folder import new_folder
from flashsloth.loading import SHIPPED_CHECKPOINT


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> str:
    """The file of a red square on white, whose name has a space."""
    path = tmp_path_factory.mktemp("images") / "red square.png"
    drawn = Image.new("RGB", (120, 80), "white")
    drawn.paste((220, 20, 20), (40, 20, 80, 60))
    drawn.save(path)
    return str(path)


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Runs a command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "flashsloth", *arguments], capture_output=True, text=True)


def ask_json(capsys, *arguments: str) -> dict:
    """The JSON object of a short answer."""
    assert cli.main(["ask", "--json", "--max-new-tokens", "8", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


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
        "The image '/nope a.png' does not exist: give an image file or",
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


def test_an_image_by_the_url_of_its_file(image, capsys):
    one = ask_json(capsys, "--image", Path(image).as_uri(), "What colour is the square?")
    assert one["visual_tokens"] > 0


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


def test_images_are_opened_before_the_model_is_loaded(capsys):
    assert cli.main(["ask", "--image", "nope.png", "What?"]) == 2
    assert "Loading" not in capsys.readouterr().err


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


def test_a_wrong_answer_in_high_definition_is_announced(image, tmp_path, capsys):
    question = ["--image", image, "--max-new-tokens", "1", "What colour is the square?"]

    def warns(*options: str) -> bool:
        assert cli.main(["ask", *options, *question]) == 0
        return "Warning: this checkpoint was trained without high definition" in capsys.readouterr().err

    with_tiles = SHIPPED_CHECKPOINT.with_name("flashsloth-tiny-hd")
    assert warns("--hd")
    assert not warns() and not warns("--no-hd") and not warns("--hd", "--model", str(with_tiles))
    trained = shutil.copytree(SHIPPED_CHECKPOINT, tmp_path / "model")
    (trained / "provenance.json").write_text('[{"command": "train", "hd": true}]')
    assert not warns("--hd", "--model", str(trained))


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


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_to_stop_removes_what_is_half_written(name, status, monkeypatch, tmp_path, capsys):
    number = signal.Signals[name]

    def compose(args):
        with new_folder(tmp_path / "dst") as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), number)
            time.sleep(10)

    monkeypatch.setattr(cli, "run_compose", compose)
    before = signal.getsignal(number)
    assert cli.main(["compose", "dst"]) == status
    assert capsys.readouterr().err == ("Interrupted.\n" if name == "SIGINT" else "Terminated.\n")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) == before


def test_a_worker_ends_by_the_signal_at_once(monkeypatch, capfd):
    def compose(args):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(10,))
        worker.start()
        time.sleep(0.5)  # a signal that comes before the fork is complete is lost
        worker.terminate()
        worker.join()
        sys.stdout.write(str(worker.exitcode))

    monkeypatch.setattr(cli, "run_compose", compose)
    assert cli.main(["compose", "dst"]) == 0
    output = capfd.readouterr()
    assert output.out == str(-signal.SIGTERM) and output.err == ""


@pytest.mark.parametrize("error", [MemoryError("32 GB"), torch.OutOfMemoryError("32 GB")])
def test_too_little_memory_is_one_line(error, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(cli, "run_compose", fail)
    assert cli.main(["compose", "dst"]) == 1
    assert capsys.readouterr().err == "flashsloth compose: error: there is not enough memory: 32 GB\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["dance"], "'dance'"),
        (["ask"], "QUESTION"),
        (["ask", "  "], "the question is empty"),
        (["ask", "--max-new-tokens", "0", "Hello?"], "'0' is not a whole number of 1 or more"),
        (["ask", "--no-such-option", "Hello?"], "--no-such-option"),
        (["convert", "only-one"], "DST"),
        (["compose"], "DST"),
        (["compose", "dst", "--seed", "x"], "--seed"),
        (["train"], "CONFIG.yaml"),
        (["data", "prepare", "mix.json"], "DIR"),
        (["data", "prepare", "mix.json", "images", "--threads", "0"], "'0' is not a whole number"),
    ],
)
def test_wrong_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    assert words in output.err and output.err.count("\n") == 1


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

    monkeypatch.setattr(cli, "run_compose", fail)
    assert cli.main(["compose", "--language-model", "a", "--vision-model", "b", "c"]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].endswith(last_line)
    assert (status == 1) == ("Traceback" in output.err)


def test_traceback_option_shows_the_traceback_of_bad_input(capsys):
    arguments = ["convert", "--to-original", "--tokenizer", "t", "a", "b"]
    assert cli.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["--traceback", *arguments]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_commands_delegate(monkeypatch, capsys):
    from flashsloth import bench, convert
    from flashsloth.convert import composition
    from flashsloth.train import config, lora, plan, sft

    calls = []

    def train_stage(*args):
        sys.stdout.write("loss\n")  # as the trainer does
        calls.append(args)
        return "out/model"

    monkeypatch.setattr(convert, "convert_checkpoint", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(convert, "to_original", lambda *args: calls.append(args))
    monkeypatch.setattr(composition, "compose", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(config, "read_config", lambda *args: args)
    monkeypatch.setattr(sft, "train_stage", train_stage)
    monkeypatch.setattr(plan, "describe", lambda *args: calls.append(args) or "plan")
    monkeypatch.setattr(lora, "merge", lambda *args: calls.append(args))
    monkeypatch.setattr(bench, "main", calls.append)
    for arguments in (
        ["convert", "src", "dst", "--tokenizer", "t"],
        ["convert", "--to-original", "src", "dst"],
        ["compose", "dst"],
        ["compose", "--language-model", "l", "--vision-model", "v", "dst", "--no-hd", "--query-layer", "0"],
        ["train", "stage1.yaml", "learning_rate=1e-3", "seed=1"],
        ["train", "stage1.yaml", "--plan", "--devices", "8", "seed=1"],
        ["merge", "adapter", "dst", "--base", "model"],
        ["bench", "--help", "positional"],
    ):
        assert cli.main(arguments) == 0
    assert calls == [
        (("src", "dst"), {"tokenizer": "t", "vision_config": None}),
        ("src", "dst"),
        ((composition.LANGUAGE_MODEL, composition.VISION_MODEL, "dst"), {}),
        (("l", "v", "dst"), {"hd": False, "query_layer": 0}),
        ((Path("stage1.yaml"), ["learning_rate=1e-3", "seed=1"]),),
        ((Path("stage1.yaml"), ["seed=1", "use_cpu=true", "tf32=null"], 8), 8),
        ("adapter", "dst", "model"),
        ["--help", "positional"],
    ]
    output = capsys.readouterr()
    assert output.out == "dst\ndst\ndst\ndst\nout/model\nplan\ndst\n"
    assert output.err == "loss\n"


def test_a_setting_whose_package_is_missing_is_bad_input(monkeypatch, capsys):
    from flashsloth.train import config, sft

    def train_stage(*args):
        raise ImportError("You need to install `bitsandbytes`")

    monkeypatch.setattr(config, "read_config", lambda *args: args)
    monkeypatch.setattr(sft, "train_stage", train_stage)
    assert cli.main(["train", "stage1.yaml", "optim=adamw_bnb_8bit"]) == 2
    expected = "flashsloth train: error: a setting needs a package that is not installed: You need to install"
    assert expected in capsys.readouterr().err


def test_ask_streams_the_answer_to_stdout(image):
    result = run("ask", "--image", image, "--max-new-tokens", "8", "What colour is the square?")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() and result.stdout.count("\n") == 1
    assert "Answered in" in result.stderr and str(SHIPPED_CHECKPOINT) in result.stderr
    assert [line.split()[0] for line in result.stderr.splitlines()] == ["Loading", "Loaded", "Answer:", "Answered"]


def test_ask_json(image, capsys):
    one = ask_json(capsys, "--image", image, "What colour is the square?")
    assert list(one) == ["answer", "seconds_to_first_token", "tokens_per_second", "visual_tokens"]
    assert one["answer"] and one["seconds_to_first_token"] > 0 and one["tokens_per_second"] > 0
    assert one["visual_tokens"] > 0
    two = ask_json(capsys, "--image", image, "--image", image, "Which square is larger?")
    assert two["visual_tokens"] == 2 * one["visual_tokens"]
    assert ask_json(capsys, "What is your name?")["visual_tokens"] == 0
    assert ask_json(capsys, "--image", image, "--hd", "And now?")["visual_tokens"] > one["visual_tokens"]


def test_a_device_may_be_named(image, capsys, monkeypatch):
    monkeypatch.setattr(loading, "default_device", lambda: pytest.fail("it is not asked for"))
    assert cli.main(["ask", "--device", "cpu", "--max-new-tokens", "1", "--image", image, "What is it?"]) == 0
    assert "Loaded onto cpu in " in capsys.readouterr().err


def test_an_answer_of_one_token_has_a_speed(image, capsys):
    assert cli.main(["ask", "--json", "--max-new-tokens", "1", "--image", image, "What colour is the square?"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_second"] > 0


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "/no/such/folder", "Hello?"], "/no/such/folder"),
        (["--model", "no-such-folder", "Hello?"], "no-such-folder"),
        (["--model", str(Path(__file__).parent), "Hello?"], "config.json"),
        (["--image", "/no/such/image.png", "Hello?"], "/no/such/image.png"),
        (["--image", __file__, "Hello?"], "test_cli.py"),
    ],
)
def test_ask_with_bad_input(arguments, words, capsys):
    assert cli.main(["ask", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err.splitlines()[-1]
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_layer": 9}, "query_layer=9 is outside the decoder"),
        ({"query_hidden_size": 16}, "do not fit its config (20 wrongly shaped: "),
    ],
    ids=str,
)
def test_ask_a_model_whose_config_does_not_fit(tmp_path, image, capsys, change, message):
    shutil.copytree(SHIPPED_CHECKPOINT, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert cli.main(["ask", "--model", str(tmp_path / "model"), "--image", image, "What?"]) == 2
    assert message in capsys.readouterr().err


def test_ask_a_model_that_is_damaged_or_incomplete(tmp_path, image, capsys):
    shutil.copytree(SHIPPED_CHECKPOINT, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.pooling.fc1.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    arguments = ["ask", "--model", str(tmp_path / "model"), "--image", image, "What?"]
    assert cli.main(arguments) == 2
    assert "do not fit its config (1 missing: model.pooling.fc1.weight)" in capsys.readouterr().err
    weights.write_bytes(weights.read_bytes()[:1000])
    assert cli.main(arguments) == 2
    assert "model.safetensors is damaged or no safetensors file" in capsys.readouterr().err


def test_ask_another_kind_of_model(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "phi"}')
    assert cli.main(["ask", "--model", str(tmp_path), "Hello?"]) == 2
    assert "'phi', not a FlashSloth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("is_fast", "dtype", "expected"),
    [(False, "fast", torch.float32), (True, "fast", torch.bfloat16), (False, "auto", torch.bfloat16)],
)
def test_bfloat16_is_replaced_on_a_cpu_that_is_slow_at_it(is_fast, dtype, expected, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: is_fast)
    model, _ = loading.load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype=dtype)
    assert model.dtype == expected
