# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The code in a model folder: no command runs it, whatever the folder asks for and whatever waits on standard input,
unless `--trust-remote-code` says so.
"""

import ast
import json
from pathlib import Path

import pytest
from model_folders import error_of, read_json, set_config, with_config
from samples import make_image, make_model

import flashsloth
from flashsloth import cli
from flashsloth.loading import load_config, load_model_and_processor


EVIL = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import PreTrainedTokenizerFast
class Evil(PreTrainedTokenizerFast):
    pass
"""
AUTO_CLASSES = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
    "AutoProcessor",
    "AutoImageProcessor",
    "AutoTokenizer",
)
VERSION = "\n{name}.code_version = 'theirs'\n"
CODE = {
    "configuration_flashsloth.py": "FlashSlothConfig",
    "image_processing_flashsloth.py": "FlashSlothImageProcessor",
    "modeling_flashsloth.py": "FlashSlothForCausalLM",
    "processing_flashsloth.py": "FlashSlothProcessor",
}

COMMANDS = {
    "ask": ["ask", "--model", "MODEL", "--max-new-tokens", "1", "Hello?"],
    "quantize": ["quantize", "MODEL", "DST", "--weights", "int8"],
    "convert": ["convert", "MODEL", "DST"],
    "convert back": ["convert", "--to-original", "MODEL", "DST"],
    "convert a tokenizer": ["convert", "MODEL", "DST", "--tokenizer", "MODEL"],
    "compose": ["compose", "--language-model", "MODEL", "--vision-model", "MODEL", "DST"],
    "data check": ["data", "check", "STAGE"],
    "train": ["train", "STAGE", "max_steps=1", "use_cpu=true", "bf16=false"],
    "plan": ["train", "STAGE", "--plan"],
    "merge": ["merge", "ADAPTER", "DST", "--base", "MODEL"],
    "push": ["push", "--dry-run", "--license", "mit", "MODEL", "lab/model"],
    "bench": ["bench", "--model", "MODEL", "--no-peer", "--repeats", "1", "--new-tokens", "1", "--dtype", "float32"],
}


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory) -> Path:
    """A saved model folder."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def answers(monkeypatch) -> list[str]:
    """The questions that something asks on standard input; each is answered with yes."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(str(prompt)) or "y")
    return asked


def with_evil(folder: Path, mark: Path) -> Path:
    """Makes all Auto classes of a folder ask for code that leaves a mark."""
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    for file in folder.glob("*_flashsloth.py"):
        file.write_text(EVIL.format(mark=str(mark)) + file.read_text())
    auto_map = dict.fromkeys(AUTO_CLASSES, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for file in (folder / "config.json", folder / "processor_config.json", folder / "tokenizer_config.json"):
        fields = {**read_json(file), "auto_map": auto_map, "tokenizer_class": "Evil"}
        if "image_processor" in fields:
            fields["image_processor"]["auto_map"] = auto_map
        file.write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("processor_class", ["FlashSlothProcessor", "Evil"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_code_of_a_folder(command, processor_class, folder, answers, tmp_path, capsys):
    model = with_evil(with_config(folder, tmp_path / "model"), tmp_path / "mark")
    file = model / "processor_config.json"
    file.write_text(json.dumps({**read_json(file), "processor_class": processor_class}))
    adapter = with_config(model, tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    stage = {
        "model": str(model),
        "data": str(tmp_path / "rows.json"),
        "output_dir": str(tmp_path / "out"),
        "trainable": ["lm_head"],
    }
    (tmp_path / "stage.yaml").write_text(json.dumps(stage))
    places = {"MODEL": model, "ADAPTER": adapter, "DST": tmp_path / "dst", "STAGE": tmp_path / "stage.yaml"}
    cli.main([str(places.get(word, word)) for word in COMMANDS[command]])
    assert not answers
    assert not (tmp_path / "mark").exists()


def test_every_call_of_the_package_says_that_it_trusts_no_code():
    """Left out, `trust_remote_code` makes transformers ask on standard input."""
    root = Path(flashsloth.__file__).parent
    packages = [file.parent for file in root.glob("*/__init__.py")]
    files = [*root.glob("*.py"), *(file for package in packages for file in package.rglob("*.py"))]
    silent = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name = ast.unparse(node.func)
            asks = "Auto" in name or "Processor" in name and "ImageProcessor" not in name
            if node.func.attr == "from_pretrained" and asks and isinstance(node.func.value, ast.Name):
                silent += [name] * all(keyword.arg != "trust_remote_code" for keyword in node.keywords)
    assert not silent


@pytest.mark.parametrize("where", [None, "text_config", "vision_config"])
def test_a_config_cannot_choose_a_kernel_of_the_hub(where, folder, tmp_path):
    kernel = {"attn_implementation": "lab/kernel"}
    fields = {where: read_json(folder / "config.json")[where] | kernel} if where else kernel
    broken = with_config(folder, tmp_path / "model", **fields)
    assert "attn_implementation 'lab/kernel', which is code of a Hub repository" in error_of(
        load_model_and_processor, str(broken)
    )


def test_with_the_flag_the_code_of_the_folder_is_used(folder, answers, tmp_path):
    theirs = with_config(folder, tmp_path / "model")
    for name, class_name in CODE.items():
        (theirs / name).write_text((theirs / name).read_text() + VERSION.format(name=class_name))

    def parts(**options) -> list:
        model, processor = load_model_and_processor(str(theirs), **options)
        return [model, model.config, processor, processor.image_processor]

    assert all(part.code_version == "theirs" for part in parts(trust_remote_code=True))
    assert not any("code_version" in dir(part) for part in parts())
    assert not answers


def test_ask_runs_the_code_of_the_folder_with_the_flag_only(folder, tmp_path, capsys):
    theirs = with_config(folder, tmp_path / "model")
    file = theirs / "modeling_flashsloth.py"
    file.write_text(file.read_text() + "\nimport sys\nprint('their code', file=sys.stderr)\n")
    make_image(0).save(tmp_path / "image.png")
    question = ["--model", str(theirs), "--image", str(tmp_path / "image.png"), "--max-new-tokens", "4", "What?"]
    assert cli.main(["ask", *question]) == 0
    ours = capsys.readouterr()
    assert cli.main(["ask", "--trust-remote-code", *question]) == 0
    with_code = capsys.readouterr()
    assert "their code" in with_code.err and "their code" not in ours.err
    assert ours.out and with_code.out == ours.out


def test_with_the_flag_a_folder_without_code_is_an_error(folder, tmp_path):
    bare = with_config(folder, tmp_path / "model")
    set_config(bare, auto_map={})
    assert "names no code for AutoConfig (auto_map). Leave out" in error_of(load_config, bare, True)
