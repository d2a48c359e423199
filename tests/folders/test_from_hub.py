# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What loads from a Hub by name: a stranger's Auto classes and pipeline, and the commands of this package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from backbones import OPTIONS, save_language_model, save_siglip
from huggingface_hub import constants
from samples import make_image, make_model, prepare, user
from without_package import WITHOUT_PACKAGE

from flashsloth import cli


REPO = "lab/flashsloth"
QUESTION = "What is this?"

# A machine without the package, as in test_remote_code.py; its code and its files come from the Hub.
STRANGER = (
    WITHOUT_PACKAGE
    + """
import json, sys
from PIL import Image
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, pipeline)

repo, old, picture, question = sys.argv[1:]
pinned = {"trust_remote_code": True, "revision": old}
latest = {"trust_remote_code": True}
content = [{"type": "image", "image": Image.open(picture)}, {"type": "text", "text": question}]
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
    folder = tmp_path_factory.mktemp("saved")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_stranger_loads_a_pinned_revision(folder, hub, processor, tmp_path):
    config = (folder / "configuration_flashsloth.py").read_text()
    mark = "\nFlashSlothConfig.code_version = '{}'\n"
    hub.add_repo(REPO, folder)
    old = hub.commit(REPO, {"configuration_flashsloth.py": (config + mark.format("old")).encode()})
    hub.commit(REPO, {"configuration_flashsloth.py": (config + mark.format("new")).encode()})
    image = make_image(0)
    image.save(tmp_path / "picture.png")
    command = [sys.executable, "-c", STRANGER, REPO, old, "picture.png", QUESTION]
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


def test_compose(hub, monkeypatch, tmp_path, capsys):
    save_language_model(tmp_path / "language")
    save_siglip(tmp_path / "vision")
    extra = {"README.md": b"# Phi", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"graph"}
    hub.add_repo("lab/language", tmp_path / "language")
    old = hub.commit("lab/language", extra)
    hub.add_repo("lab/vision", tmp_path / "vision")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]

    def compose(language_model: str, name: str, vision_model: str = "lab/vision") -> int:
        names = ["--language-model", language_model, "--vision-model", vision_model, str(tmp_path / name)]
        return cli.main(["compose", *names, *options])

    def weights(name: str) -> bytes:
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert compose(str(tmp_path / "language"), "expected", str(tmp_path / "vision")) == 0
    hub.fail("GET", "lab/language/resolve/.*safetensors", 500)
    assert compose("lab/language", "latest") == 1
    assert "Run the command again" in capsys.readouterr().err and not (tmp_path / "latest").exists()
    assert compose("lab/language", "latest") == 0
    assert weights("latest") == weights("expected")
    fetched = {request.path.split("/")[-1] for request in hub.requests if request.method == "GET"}
    assert "model.safetensors" in fetched and not fetched & {path.split("/")[-1] for path in extra}

    save_language_model(tmp_path / "other", initializer_range=0.5)
    new = hub.commit("lab/language", tmp_path / "other")
    assert compose(f"lab/language@{old}", "old") == compose("lab/language@main", "new") == 0
    assert weights("old") == weights("expected") != weights("new")
    (entry,) = json.loads((tmp_path / "new" / "provenance.json").read_text())
    assert entry["sources"] == [
        {"role": "language_model", "repo": "lab/language", "revision": new},
        {"role": "vision_model", "repo": "lab/vision", "revision": hub.head("lab/vision").sha},
    ]
    for name, words in (
        ("lab/language@v9", "Revision Not Found"),
        ("lab/nothing", "Repository Not Found"),
    ):
        assert compose(name, "none") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert (
            error.startswith(f"flashsloth compose: error: {name} is not a folder, and cannot be downloaded")
            and words in error
        )

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert compose(f"lab/language@{old}", "offline") == compose("lab/language@main", "offline new") == 0
    assert weights("offline") == weights("expected") and weights("offline new") == weights("new")
    assert compose("lab/nothing", "none") == 2
    assert not (tmp_path / "none").exists()
