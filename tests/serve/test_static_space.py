# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A static Space is a folder that a server of files is enough for, written whole or not at all."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from browser_page import LIBRARIES, Visitor, chromium, serving, what_is_missing
from model_folders import error_of

import flashsloth
from flashsloth import cli
from flashsloth.publish.space import read_space
from flashsloth.serve import static_space
from flashsloth.serve.static_space import CDN, HEADERS, write_static_space


ROOT = Path(flashsloth.__file__).parent
TINY = ROOT / "checkpoints" / "flashsloth-tiny"
SCENE = ROOT / "examples" / "scene.png"


@pytest.fixture(scope="module")
def space(exported, tmp_path_factory) -> Path:
    return write_static_space(tmp_path_factory.mktemp("spaces") / "space", exported)


@pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing()))
def test_the_folder_runs_as_it_is(space):
    """
    With the headers that the Hub sends, in a browser that has four cores, and with libraries of this machine in the
    place of those of the CDN.
    """
    answered = []
    worker = (space / "worker.js").read_text(encoding="utf-8")
    four_cores = "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 4 });"

    def from_cdn(route) -> None:
        name, path = re.match(rf"{CDN}(.+?)@[\d.]+/(.+)", route.request.url).groups()
        answered.append(name)
        route.fulfill(path=LIBRARIES / name / path, headers={"access-control-allow-origin": "*"})

    def with_cores(route) -> None:
        route.fulfill(body=four_cores + worker, content_type="text/javascript", headers=HEADERS)

    with serving(space, HEADERS) as address, chromium() as browser:
        browser.route(f"{CDN}**", from_cdn)
        browser.route("**/worker.js", with_cores)
        visitor = Visitor(browser, f"{address}/")
        assert visitor.page.inner_text("#state").endswith("WebAssembly, 2 threads")
        visitor.pick(SCENE)
        assert visitor.ask("What colour is the square?")["text"] == "The square is red."
        visitor.close()
    assert {"@huggingface/jinja", "@huggingface/tokenizers", "onnxruntime-web"} == set(answered)


def test_the_card_says_how_to_run_it(space):
    card = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert card["sdk"] == "static" and (space / card["app_file"]).is_file()
    assert card["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
    assert len(card["short_description"]) <= 60


def test_libraries_come_from_the_cdn_in_tested_versions(space):
    wanted = json.loads((ROOT / "examples" / "browser" / "package.json").read_text())["dependencies"]
    text = (space / "index.html").read_text(encoding="utf-8")
    assert "node_modules" not in text
    assert dict(re.findall(rf"{CDN}(.+?)@([\d.]+)/", text)) == wanted


def test_it_holds_what_the_page_reads_and_can_be_pushed(space):
    names = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"page.js", "worker.js", "style.css", "LICENSE", "model/onnx/embed_tokens.onnx"} <= names
    assert not [name for name in names if name.endswith((".py", ".safetensors", "provenance.json", "package.json"))]
    assert read_space(space).keys() == names


BAD_INPUT = {
    "a model that was not exported": ("is no exported model: it has no export.json",),
    "no folder": ("none is not a folder: name one that `flashsloth export MODEL DIR --format onnx` wrote",),
    "a file that was cut short": ("vision_encoder.onnx is cut short or damaged",),
    "a file that is missing": ("tokenizer.json is missing, but the model needs it",),
    "a model that is too large": ("export it with one kind of weights, of fewer bits (--weights int4)",),
    "a folder that holds something": ("is not empty",),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_nothing_is_written_for_bad_input(given, exported, tmp_path, monkeypatch):
    model, target = tmp_path / "model", tmp_path / "space"
    shutil.copytree(exported, model)
    if given == "a model that was not exported":
        model = TINY
    elif given == "no folder":
        model = tmp_path / "none"
    elif given == "a file that was cut short":
        (model / "onnx" / "vision_encoder.onnx").write_bytes(b"cut")
    elif given == "a file that is missing":
        (model / "tokenizer.json").unlink()
    elif given == "a model that is too large":
        monkeypatch.setattr(static_space, "MAX_BYTES", 1000)
    else:
        target.mkdir()
        (target / "own.txt").touch()
    (says,) = BAD_INPUT[given]
    assert says in error_of(write_static_space, target, model)
    assert [path.name for path in target.glob("**/*")] in ([], ["own.txt"])


def test_the_command(exported, tmp_path, capsys):
    target = tmp_path / "space"
    assert cli.main(["demo", "--space", str(target), "--static", "--model", str(exported)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert (target / "model" / "export.json").is_file()
    for options, says in ((["--space", str(target)], "needs one model"), ([], "--static is about --space DIR")):
        assert cli.main(["demo", "--static", *options]) == 2
        assert says in capsys.readouterr().err
