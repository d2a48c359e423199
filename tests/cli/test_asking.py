# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth ask`. The shipped checkpoint answers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from flashsloth import cli
from flashsloth.parts import SHIPPED_CHECKPOINT


def ask_json(capsys, *arguments: str) -> dict:
    """The JSON object of a short answer."""
    assert cli.main(["ask", "--json", "--max-new-tokens", "8", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_ask_needs_a_question(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["ask"])
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    assert "QUESTION" in output.err and output.err.count("\n") == 1


def test_ask_streams_the_answer_to_stdout(image):
    command = ["ask", "--image", image, "--max-new-tokens", "8", "What colour is the square?"]
    result = subprocess.run([sys.executable, "-m", "flashsloth", *command], capture_output=True, text=True)
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


def test_an_answer_of_one_token_has_a_speed(image, capsys):
    assert cli.main(["ask", "--json", "--max-new-tokens", "1", "--image", image, "What colour is the square?"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_second"] > 0


def test_an_image_by_the_url_of_its_file(image, capsys):
    one = ask_json(capsys, "--image", Path(image).as_uri(), "What colour is the square?")
    assert one["visual_tokens"] > 0


def test_images_are_opened_before_the_model_is_loaded(capsys):
    assert cli.main(["ask", "--image", "nope.png", "What?"]) == 2
    assert "Loading" not in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "/no/such/folder", "Hello?"], "/no/such/folder"),
        (["--model", "no-such-folder", "Hello?"], "no-such-folder"),
        (["--model", str(Path(__file__).parent), "Hello?"], "config.json"),
        (["--image", "/no/such/image.png", "Hello?"], "/no/such/image.png"),
        (["--image", __file__, "Hello?"], "test_asking.py"),
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
