# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A Space is a folder that runs the demo by itself, written whole or not at all."""

import ast
import importlib.metadata
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import gradio
import pytest
import yaml
from gradio_client import Client, handle_file
from huggingface_hub import ModelCard
from model_folders import error_of, set_config
from packaging.requirements import Requirement

import flashsloth
from flashsloth import cli
from flashsloth.serve import space
from flashsloth.serve.demo import SHIPPED_MODELS
from flashsloth.serve.space import SpaceModel, write_space


ROOT = Path(flashsloth.__file__).parent
TINY = ROOT / "checkpoints" / "flashsloth-tiny"
SCENE = ROOT / "examples" / "scene.png"
# Runs app.py where no other flashsloth can be imported.
ALONE = """
import runpy, sys
from importlib.util import find_spec

sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path = [path for path in sys.path if path not in {paths!r}]
assert find_spec("flashsloth") is None
sys.path.insert(0, ".")
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Space with the shipped models."""
    return write_space(tmp_path_factory.mktemp("spaces") / "space", SHIPPED_MODELS)


def card(folder: Path) -> dict:
    """What the Hub reads of the Space's card."""
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_folder_runs_by_itself_until_it_is_told_to_stop(folder, tmp_path, sign):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**kept, "GRADIO_SERVER_PORT": port, "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    program = ALONE.format(paths=[str(ROOT), str(ROOT.parent), ""])
    command = [sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:
        try:
            address = process.stdout.readline().strip()
            assert address == f"http://127.0.0.1:{port}/"
            client = Client(address, verbose=False)
            message = {"text": "What colour is the square?", "files": [handle_file(str(SCENE))]}
            messages, *_ = client.predict(message, "flashsloth-tiny-hd", "Pooling", 0, 1, 32, api_name="/ask")
            assert messages[-1]["content"][-1]["text"] == "The square is red."
            client.close()
            process.send_signal(sign)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0 and "Traceback" not in errors
    assert not list(tmp_path.glob("flashsloth-demo-*")) and not (tmp_path / "gradio").exists()


def test_the_card_says_how_to_run_it(folder):
    read = card(folder)
    assert read["sdk"] == "gradio" and read["sdk_version"] == gradio.__version__
    assert read["app_file"] == "app.py" and (folder / "app.py").is_file()
    assert read["suggested_hardware"] == "cpu-basic" and "models" not in read
    assert read["python_version"] == ".".join(map(str, sys.version_info[:2]))
    assert len(read["short_description"]) <= 60
    assert "`flashsloth-tiny` and `flashsloth-tiny-hd`" in ModelCard.load(folder / "README.md").text


def test_what_it_requires_is_what_is_installed_here(folder):
    lines = (folder / "requirements.txt").read_text().splitlines()
    required = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
    needed = {Requirement(line).name for line in importlib.metadata.requires("flashsloth") if "extra" not in line}
    assert required.keys() == {*needed, "gradio"}
    for name, specifier in required.items():
        installed = importlib.metadata.version(name).partition("+")[0]
        assert [str(part) for part in specifier] == [f"=={installed}"]


def test_it_holds_the_code_that_it_imports_and_nothing_of_this_machine(folder):
    modules = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py")}
    for path in folder.glob("flashsloth/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flashsloth."):
                module = node.module.replace(".", "/")
                assert {module, f"{module}/__init__"} & modules, f"{path} imports {node.module}"
    texts = [path for path in folder.rglob("*") if path.suffix in (".py", ".md", ".txt", ".json", ".jinja")]
    assert not [path for path in texts if str(ROOT) in path.read_text(encoding="utf-8")]
    assert not {"provenance.json", "evaluation.json"} & {path.name for path in folder.rglob("*")}
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_a_model_of_the_hub_is_named_and_not_copied(hub, tmp_path):
    commit = hub.add_repo("lab/model", TINY)
    folder = write_space(tmp_path / "space", [f"lab/model@{commit}", str(TINY)], dtype="float32")
    app = (folder / "app.py").read_text()
    assert re.search(rf"MODELS = \[\n    'lab/model@{commit}',\n    str\(HERE / 'models/flashsloth-tiny'\),\n\]", app)
    assert "dtype='float32', trust_remote_code=False" in app
    assert card(folder)["models"] == ["lab/model"]
    assert [path.name for path in (folder / "models").iterdir()] == ["flashsloth-tiny"]
    assert not hub.count("GET", "model.safetensors")  # only its config is looked at


def test_large_models_ask_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "MAX_CPU_PARAMETERS", 1000)
    assert card(write_space(tmp_path / "space", [str(TINY)]))["suggested_hardware"] == "l4x1"


BAD_INPUT = {
    "a folder that holds something": ([str(TINY)], "is not empty"),
    "no such repository": (["lab/none"], "lab/none is not a folder, and cannot be downloaded from the Hub"),
    "a damaged model": (["damaged"], "hidden_act"),
    "the same model twice": ([str(TINY), str(TINY)], "Two models are called flashsloth-tiny"),
    "a model that is too large": ([str(TINY)], "push them to the Hub"),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_nothing_is_written_for_bad_input(given, hub, tmp_path, monkeypatch):
    models, says = BAD_INPUT[given]
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "spaces" / "space"
    if given == "a folder that holds something":
        target.mkdir(parents=True)
        (target / "own.txt").touch()
    elif given == "a model that is too large":
        monkeypatch.setattr(space, "MAX_BYTES", 1000)
    elif given == "a damaged model":
        shutil.copytree(TINY, "damaged")
        set_config(Path("damaged"), text_config={"hidden_act": "no such function"})
    assert says in error_of(write_space, target, models)
    assert [path.name for path in tmp_path.glob("spaces/**/*") if path.is_file()] in ([], ["own.txt"])


@pytest.mark.parametrize("name", ["sloth 🦥", 'a "model"', "it's", "{braces}", "back\\slash"])
def test_any_name_of_a_folder_is_found_by_the_space(name, tmp_path):
    model = SpaceModel(name, str(tmp_path / name), 1)
    (tmp_path / name).mkdir()
    assert eval(model.reference, {"HERE": tmp_path, "str": str}) == str(tmp_path / "models" / name)
    assert eval(SpaceModel(name, name, 1).reference) == name


def test_the_command(tmp_path, capsys):
    target = tmp_path / "space"
    assert cli.main(["demo", "--space", str(target), "--model", str(TINY)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert (target / "models" / "flashsloth-tiny" / "model.safetensors").is_file()
    assert cli.main(["demo", "--space", str(target)]) == 2
    assert "is not empty" in capsys.readouterr().err
