# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A trial of a model folder, as a stranger will use it: a new process without cache, network, token and this package
loads the folder and asks it a question about an image. This file is also the program of that process, so it imports
nothing of the package.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"
PACKAGE = "flashsloth"
IMAGE_FILE = "image.png"
# The longest answer. A CPU without bfloat16 instructions takes seconds for each token of the large model.
MAX_NEW_TOKENS = 32
# Environment variables with settings of the Hub and of transformers, and those that hold secrets.
SETTINGS = ("HF_", "HUGGING", "TRANSFORMERS_")
SECRETS = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "API_KEY", "ACCESS_KEY")


def try_folder(folder, question: str, image: bytes) -> str:
    """
    Loads a folder in a new process through AutoProcessor, AutoModelForCausalLM and AutoModelForImageTextToText, in the
    dtype of its weights, and generates an answer.

    Args:
        folder (`str` or `os.PathLike`): The model folder.
        question (`str`): What the model is asked.
        image (`bytes`): The image in question, as a PNG file.

    Returns:
        `str`: The answer, by greedy decoding. It ends in "..." if it was longer than `MAX_NEW_TOKENS`.

    Raises:
        ValueError: If a step fails. The message names the step and the reason.
    """
    start = time.perf_counter()
    logger.info("Trying the model in a new process, without this package")
    with tempfile.TemporaryDirectory() as home:
        # -P keeps the folder of this file out of the import path.
        command = [sys.executable, "-P", __file__, str(Path(folder).resolve()), home, question]
        (Path(home) / IMAGE_FILE).write_bytes(image)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        status = subprocess.run(command, env=_environment(home), cwd=home, **streams).returncode
        result_file = Path(home) / RESULT_FILE
        result = json.loads(result_file.read_text(encoding="utf-8")) if result_file.is_file() else {}
    if "answer" in result:
        logger.info("The model answers, after %.0f s", time.perf_counter() - start)
        return result["answer"]
    where = f"{folder} does not work without this package:"
    if "error" in result:
        raise ValueError(f"{where} {result['step']} failed: {result['error']}")
    hint = f"signal {-status}; is there enough memory for the model?" if status < 0 else f"status {status}"
    raise ValueError(f"{where} the process that tried it ended with {hint}")


def _environment(home: str) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(SETTINGS) and not any(word in name.upper() for word in SECRETS)
    }
    return environment | {
        "HF_HOME": home,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


class _NoPackage:
    """A finder of Python's import system that makes the package look uninstalled."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == PACKAGE:
            raise ModuleNotFoundError(f"No module named {name!r} where the model is loaded", name=name)


class Trial:
    """
    The work of the new process. `step` names what it is doing.

    Args:
        folder (`str`), question (`str`): See [`try_folder`].
        image (`Path`): The image's file.
    """

    def __init__(self, folder: str, question: str, image: Path):
        self.folder = folder
        self.question = question
        self.image = image
        self.step = "importing torch and transformers"

    def run(self) -> str:
        """Returns the answer; every error is raised."""
        import torch
        from PIL import Image
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

        self.step = "loading with AutoProcessor"
        processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=True)

        self.step = "loading with AutoModelForCausalLM"
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=True)
        with torch.device("meta"):  # without weights, which are the same in both classes
            causal = AutoModelForCausalLM.from_config(config, trust_remote_code=True)

        self.step = "loading with AutoModelForImageTextToText"
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        model, info = AutoModelForImageTextToText.from_pretrained(
            self.folder, trust_remote_code=True, dtype="auto", device_map=device, output_loading_info=True
        )
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[kind]:
                names = ", ".join(map(str, sorted(info[kind])[:3]))
                raise ValueError(f"the weights do not fit the config: {len(info[kind])} {kind}, such as {names}")
        if type(causal).__name__ != type(model).__name__:
            raise ValueError(f"it gives a {type(model).__name__}, but AutoModelForCausalLM a {type(causal).__name__}")

        self.step = "answering a question about an image"
        content = [{"type": "image", "image": Image.open(self.image)}, {"type": "text", "text": self.question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device, dtype=model.dtype)
        output = model.generate(
            **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        if not all(logits.isfinite().all() for logits in output.logits):
            raise ValueError("the logits are not finite numbers")
        tokens = output.sequences[0, inputs["input_ids"].shape[1] :]
        ends = model.generation_config.eos_token_id  # an id, several, or none
        is_cut = len(tokens) == MAX_NEW_TOKENS and int(tokens[-1]) not in (ends if isinstance(ends, list) else [ends])
        return processor.decode(tokens, skip_special_tokens=True).strip() + ("..." if is_cut else "")


def main() -> None:
    """`python trial.py FOLDER HOME QUESTION`: loads, asks about `HOME/image.png`, and writes `HOME/result.json`."""
    folder, home, question = sys.argv[1:]
    sys.meta_path.insert(0, _NoPackage())
    trial = Trial(folder, question, Path(home) / IMAGE_FILE)
    try:
        result = {"answer": trial.run()}
    except Exception as error:  # the outermost boundary of this process: the other one reports the error
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    (Path(home) / RESULT_FILE).write_text(json.dumps({"step": trial.step, **result}), encoding="utf-8")


if __name__ == "__main__":
    main()
