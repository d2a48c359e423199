# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Each example runs as written, with the command that it documents."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from documentation import blocks, matches
from openai_server import running_server
from safetensors.torch import load_file
from shell import PATH, run_script

from flashsloth import FlashSlothForCausalLM
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor


ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
# In addition to a documented command: one step on all five rows, at a rate that changes every weight.
SHORT = ["--max_steps", "1", "--per_device_train_batch_size", "5", "--save_strategy", "no"]
SHORT += ["--report_to", "none", "--learning_rate", "1e-2"]


@pytest.fixture
def root(tmp_path):
    """A folder with what the commands read of the repository; what they write stays in it."""
    for name in ("examples", "checkpoints", "train"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(command, cwd, **environment):
    """Runs a command, which must succeed; returns what it wrote to either stream."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": PATH, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def documented_command(file, start):
    """The words of the command in a file's first indented block that begins with `start`."""
    text = (EXAMPLES / file).read_text(encoding="utf-8").replace("\\\n", " ")
    [line] = re.findall(rf"^#?    +({re.escape(start)} .*checkpoints/flashsloth-tiny .*)$", text, flags=re.MULTILINE)
    return line.split()


def check_trained_folder(output):
    """The folder is complete, and every part of the model changed."""
    names = {path.name for path in output.iterdir()}
    assert {"modeling_flashsloth.py", "processor_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    before = load_file(SHIPPED_CHECKPOINT / "model.safetensors")
    after = load_file(output / "model.safetensors")
    unchanged = [name for name in before if torch.equal(before[name].float(), after[name].float())]
    assert not [name for name in unchanged if not name.endswith("k_proj.bias")]  # softmax ignores the bias of keys
    FlashSlothForCausalLM.from_pretrained(output)


def test_plain_trl_script_without_this_package(root):
    # An import of the package fails, so that nothing of it can help.
    (root / "flashsloth").mkdir()
    (root / "flashsloth" / "__init__.py").write_text("raise ImportError('the script must not need the package')")
    run([*documented_command("trl_script.py", "python"), *SHORT], root, PYTHONPATH=str(root))
    check_trained_folder(root / "build" / "trl_script")


def test_trl_command_line(root):
    run([*documented_command("trl_sft.sh", "examples/trl_sft.sh"), *SHORT], root)
    check_trained_folder(root / "build" / "trl_sft")


def test_preference_training(root):
    (root / "flashsloth").mkdir()
    (root / "flashsloth" / "__init__.py").write_text("raise ImportError('the script must not need the package')")
    [block] = blocks(EXAMPLES / "README.md", "sh")
    command = documented_command("preference_training.py", "python")
    assert block.source.split() == command
    output = run(command, root, PYTHONPATH=str(root))
    assert matches(f"...{block.expected}", output), output
    [margin] = re.findall(r"([-\d.]+) at the last", output)
    assert float(margin) > 1
    assert (root / "build" / "preferences" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no/such/folder", "is not a folder, and no model on the Hub that can be loaded"),
        ("examples", "holds no model"),
    ],
)
def test_preference_training_without_a_model_ends_in_one_line(root, name, problem):
    words = documented_command("preference_training.py", "python")
    command = [*words[:2], name, *words[3:]]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PATH": PATH}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"preference_training.py: error: '{name}' {problem}")
    assert "Traceback" not in done.stderr and not (root / "build").exists()


def test_recipe_for_own_data(root):
    recipe = blocks(EXAMPLES / "own_data.md", "sh")
    output, _ = run_script("\n".join(block.source for block in recipe), root)
    expected = "".join(block.expected or "" for block in recipe)
    assert expected.count("\n") > 10 and matches(expected, output), output


def test_openai_client(root):
    model, processor = load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype="float32")
    with running_server(model, processor) as server:
        output = run([sys.executable, "examples/openai_client.py", server.url], root)
    (page,) = re.findall(r"```text\n(flashsloth-tiny: .*?)```", (ROOT / "docs" / "asking.md").read_text(), re.DOTALL)
    assert output == page
