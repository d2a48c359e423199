# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Models by name: from a folder or a Hub, by `load`, by `flashsloth ask`, and by a stranger without the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from model_folders import error_of, with_config
from safetensors.torch import load_file, save_file
from samples import make_image, make_model, prepare, user
from without_package import WITHOUT_PACKAGE

from flashsloth import cli, loading
from flashsloth.loading import find_flashsloth, load_model, load_model_and_processor, load_processor
from flashsloth.parts import SHIPPED_CHECKPOINT


REPO = "lab/flashsloth"


QUESTION = "What is this?"


STRANGER = (
    WITHOUT_PACKAGE
    + """
import json, sys
from PIL import Image
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, pipeline)

repo, old, image, question = sys.argv[1:]
pinned = {"trust_remote_code": True, "revision": old}
latest = {"trust_remote_code": True}
content = [{"type": "image", "image": Image.open(image)}, {"type": "text", "text": question}]
chat = [{"role": "user", "content": content}]
greedy = {"max_new_tokens": 8, "do_sample": False}

def answer(auto_class):
    processor = AutoProcessor.from_pretrained(repo, **pinned)
    model = auto_class.from_pretrained(repo, **pinned)
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt")
    ids = model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1]:]
    return processor.decode(ids, skip_special_tokens=True)

def code(**kwargs):
    return type(AutoConfig.from_pretrained(repo, **kwargs)).code_version

codes = [code(**latest), code(**pinned)]
answers = [answer(AutoModelForCausalLM), answer(AutoModelForImageTextToText)]
pipe = pipeline("image-text-to-text", model=repo, **pinned)
answers.append(pipe(text=chat, generate_kwargs=greedy, return_full_text=False)[0]["generated_text"])
codes += [code(**latest), code(**latest, code_revision=old)]
print(json.dumps({"answers": answers, "codes": codes}))
"""
)


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory) -> Path:
    """A saved model folder."""
    folder = tmp_path_factory.mktemp("saved")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


# ---- a folder ----


def test_load_gives_model_and_processor(folder):
    model, processor = load_model_and_processor(str(folder))
    assert not model.training and type(model).__name__ == "FlashSlothForCausalLM"
    assert processor.num_query_tokens == model.config.num_query_tokens


def test_options_reach_from_pretrained(folder):
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "phi"}, "is a model of type 'phi', not a FlashSloth"),
        ({"num_hidden_layers": 10**9}, "has num_hidden_layers 1000000000; no model has more"),
        ({"query_layer": 9}, "config.json is contradictory: query_layer=9"),
        ({"text_config": 5}, "config.json"),
        ({"query_hidden_size": 16}, "do not fit its config (20 wrongly shaped: "),
    ],
    ids=str,
)
def test_configs_that_do_not_fit(changes, message, folder, tmp_path):
    broken = with_config(folder, tmp_path / "broken", **changes)
    assert message in error_of(load_model_and_processor, str(broken)) and str(broken) in error_of(
        load_model_and_processor, str(broken)
    )


def test_processors_that_are_missing_or_damaged(folder, tmp_path):
    broken = with_config(folder, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    assert f"The processor in {broken} cannot be read" in error_of(load_processor, broken)
    (broken / "processor_config.json").write_text("{}")
    assert "processor_config.json describes no image processor" in error_of(load_processor, broken)
    (broken / "processor_config.json").unlink()
    assert "holds no processor (processor_config.json). Save the processor there" in error_of(load_processor, broken)


def test_weights_that_are_missing_or_damaged(folder, tmp_path):
    broken = with_config(folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.pooling.fc1.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "do not fit its config (1 missing: model.pooling.fc1.weight)" in error_of(load_model, broken)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"{weights} is damaged or no safetensors file" in error_of(load_model, broken)
    weights.unlink()
    assert f"No weights in {broken}" in error_of(load_model, broken)


def test_an_adapter_and_no_folder_at_all(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "is an adapter: merge it first" in error_of(load_model_and_processor, str(tmp_path))
    for name in ("nowhere", "./no/where", "/no/such/folder"):
        with pytest.raises(FileNotFoundError, match=f"No model folder at '{name}'; give a folder or a Hub id"):
            find_flashsloth(name)


def test_code_of_the_folder_is_not_run(folder, tmp_path, monkeypatch):
    """Not even by a "y" on standard input, which answers transformers' question."""
    hostile = with_config(folder, tmp_path / "hostile")
    for file in hostile.glob("*.py"):
        file.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n" + file.read_text())
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    load_model_and_processor(str(hostile))
    assert not (tmp_path / "executed").exists()


# ---- a Hub ----


def test_a_stranger_loads_a_pinned_revision(folder, hub, processor, tmp_path):
    config = (folder / "configuration_flashsloth.py").read_text()
    mark = "\nFlashSlothConfig.code_version = '{}'\n"
    hub.add_repo(REPO, folder)
    old = hub.commit(REPO, {"configuration_flashsloth.py": (config + mark.format("old")).encode()})
    hub.commit(REPO, {"configuration_flashsloth.py": (config + mark.format("new")).encode()})
    image = make_image(0)
    image.save(tmp_path / "image.png")
    command = [sys.executable, "-c", STRANGER, REPO, old, "image.png", QUESTION]
    environment = hub.environment(tmp_path / "home")
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    inputs = prepare(processor, [user(image, QUESTION)])
    ids = make_model().generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert result["answers"] == [processor.decode(ids, skip_special_tokens=True)] * 3
    assert result["codes"] == ["new", "old", "new", "old"]
    # of the newer commit, only code and config were asked for
    weights = [request.path for request in hub.requests if request.path.endswith(".safetensors")]
    assert weights and all(old in path for path in weights)


def ask(*arguments: str) -> int:
    return cli.main(["ask", "--max-new-tokens", "8", *arguments, QUESTION])


def test_ask(folder, hub, monkeypatch, capsys):
    old = hub.add_repo(REPO, folder)
    assert ask("--model", str(folder)) == 0
    answer = capsys.readouterr().out
    assert answer
    other = make_model(seed=1)
    other.save_pretrained(folder.parent / "other")
    hub.commit(REPO, {"model.safetensors": (folder.parent / "other" / "model.safetensors").read_bytes()})
    hub.requests.clear()
    assert ask("--model", REPO, "--revision", old) == 0
    assert capsys.readouterr().out == answer
    assert hub.count("GET", REPO) == hub.count("GET", f"{REPO}/.*{old}")
    assert ask("--model", REPO) == 0
    assert capsys.readouterr().out not in ("", answer)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ask("--model", REPO, "--revision", old) == 0
    assert capsys.readouterr().out == answer


def test_ask_what_cannot_be_loaded(folder, hub, monkeypatch, capsys):
    hub.add_repo(REPO, folder)
    hub.add_repo("lab/llama", {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"large"})
    hub.add_repo("sloth/secret", folder, private=True)

    def error(status: int, *arguments: str) -> str:
        capsys.readouterr()
        assert ask(*arguments) == status
        output = capsys.readouterr()
        assert output.out == "" and "hf_" not in output.err
        return next(line for line in output.err.splitlines() if line.startswith("flashsloth ask: error:"))

    assert "Repository Not Found" in error(2, "--model", "lab/nothing")
    assert "Repository Not Found" in error(2, "--model", "sloth/secret")
    assert "Revision Not Found" in error(2, "--model", REPO, "--revision", "v9")
    assert "has no revision main" in error(2, "--model", str(folder), "--revision", "main")
    assert "of type 'llama', not a FlashSloth" in error(2, "--model", "lab/llama")
    assert not hub.count("GET", "lab/llama/resolve/.*safetensors")
    monkeypatch.setenv("HF_TOKEN", "hf_NotTheToken")
    assert "Invalid credentials" in error(2, "--model", "sloth/secret")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.fail("GET", f"/api/models/{REPO}/revision/main")
    assert "Run the command again" in error(1, "--model", REPO)
    hub.fail("GET", "model.safetensors", 500)
    assert "Run the command again" in error(1, "--model", REPO)
    assert ask("--model", "sloth/secret") == ask("--model", REPO) == 0


@pytest.mark.parametrize(
    ("is_fast", "dtype", "expected"),
    [(False, "fast", torch.float32), (True, "fast", torch.bfloat16), (False, "auto", torch.bfloat16)],
)
def test_bfloat16_is_replaced_on_a_cpu_that_is_slow_at_it(is_fast, dtype, expected, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: is_fast)
    model, _ = load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype=dtype)
    assert model.dtype == expected
