# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Each example runs as it stands, and does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from samples import make_model

from flashsloth import FlashSlothForCausalLM


ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SHORT = ["--max_steps", "1", "--per_device_train_batch_size", "5", "--use_cpu", "--save_strategy", "no"]
SHORT += ["--report_to", "none", "--learning_rate", "1e-2"]
# The commands of this environment first.
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def base(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("examples") / "base"
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run(command, cwd, **environment):
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def check_whole_training(base, output):
    """The folder is complete, and every part of the model moved."""
    names = {path.name for path in output.iterdir()}
    assert {"modeling_flashsloth.py", "processor_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    unmoved = [name for name in before if torch.equal(before[name], after[name])]
    assert not [name for name in unmoved if not name.endswith("k_proj.bias")]  # softmax does not see a key's bias
    FlashSlothForCausalLM.from_pretrained(output)


def test_plain_trl_script_without_this_package(base, tmp_path):
    # An import of the package fails, so that nothing of it can help.
    (tmp_path / "flashsloth").mkdir()
    (tmp_path / "flashsloth" / "__init__.py").write_text("raise ImportError('the script must not need the package')")
    command = [sys.executable, str(EXAMPLES / "trl_script.py"), "--model_name_or_path", str(base)]
    command += ["--dataset_name", str(EXAMPLES / "scenes"), "--output_dir", str(tmp_path / "out"), *SHORT]
    run(command, tmp_path, PYTHONPATH=str(tmp_path))
    check_whole_training(base, tmp_path / "out")


def test_trl_command_line(base, tmp_path):
    command = [
        "bash",
        str(EXAMPLES / "trl_sft.sh"),
        str(base),
        str(EXAMPLES / "scenes"),
        str(tmp_path / "out"),
        *SHORT,
    ]
    run(command, tmp_path)
    check_whole_training(base, tmp_path / "out")


def test_recipe_for_own_data(tmp_path):
    recipe = (EXAMPLES / "own_data.md").read_text(encoding="utf-8")
    script = "\n".join(["set -eu", *re.findall(r"```sh\n(.*?)```", recipe, flags=re.DOTALL)])
    for name in ("examples", "checkpoints", "train"):
        (tmp_path / name).symlink_to(ROOT / name)
    output = run(["bash", "-c", script], tmp_path)
    assert "No broken rows." in output
    assert "GB per device" in output
    assert "Answer:\nThe fox." in output
