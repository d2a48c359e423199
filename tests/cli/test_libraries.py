# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What libraries say is kept back, and one that is missing is named with its remedy."""

import subprocess
import sys
import warnings

import pytest
from model_folders import error_of
from transformers.utils import logging as transformers_logging

from flashsloth import FlashSlothForCausalLM, cli
from flashsloth.cli.libraries import extra_packages


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


@pytest.mark.parametrize(
    ("command", "module", "installs"),
    [
        (["convert", "SRC", "DST"], "torch", "torch accelerate"),
        (["push", "DIR", "owner/name"], "torch", "torch accelerate"),
        (["push", "--space", "DIR", "owner/name"], "torch", "torch accelerate"),
        (["bench", "chat"], "torch", "torch accelerate"),
        (["push", "DIR", "owner/name"], "safetensors", "safetensors"),
    ],
)
def test_a_package_that_is_missing_is_one_line(command, module, installs):
    # None is Python's own mark of what cannot be imported.
    program = (
        f"import sys; sys.modules[{module!r}] = None; from flashsloth.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True)
    line = f"flashsloth {command[0]}: error: {module} is needed, and not installed; install it with: pip install "
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == line + installs and "Traceback" not in done.stderr


def _fail() -> None:
    with extra_packages("serve", "serve"):
        import no_such_package  # noqa: F401


def test_an_extra_brings_no_torch_where_there_is_none(monkeypatch):
    assert error_of(_fail) == "serve needs no_such_package; install it with: pip install 'flashsloth[serve]'"
    monkeypatch.setattr("transformers.utils.is_torch_available", lambda: False)
    message = error_of(_fail)
    assert "pip install 'httptools>=" in message and "'starlette>=" in message and "torch" not in message
