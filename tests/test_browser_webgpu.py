# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The page of examples/browser by WebGPU, which Chromium computes in software here."""

from pathlib import Path

import pytest
from browser_page import SOFTWARE_WEBGPU, Visitor, chromium, make_site, serving, what_is_missing

import flashsloth
from flashsloth.loading import SHIPPED_CHECKPOINT


pytestmark = pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing()))
SCENE = Path(flashsloth.__file__).parent / "examples" / "scene.png"
QUESTIONS = ("What colour is the square?", "Which digit is written by hand? Answer briefly.")


@pytest.fixture(scope="module")
def browser():
    with chromium(SOFTWARE_WEBGPU) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(exported, browser, tmp_path_factory):
    with serving(make_site(tmp_path_factory.mktemp("webgpu") / "site", model=exported)) as address:
        page = browser.new_page()
        page.goto(f"{address}/index.html")
        if not page.evaluate("navigator.gpu?.requestAdapter().then((adapter) => adapter !== null) ?? false"):
            pytest.skip("this Chromium has no WebGPU in software")
        page.close()
        yield address


def test_webgpu_gives_the_answers_of_python(address, browser):
    visitor = Visitor(browser, f"{address}/index.html?device=webgpu")
    assert visitor.page.inner_text("#state") == "model · float32 · WebGPU"
    visitor.pick(SCENE)
    chat = flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32", device="cpu").chat()
    for image, question in zip((SCENE, None), QUESTIONS, strict=True):
        assert visitor.ask(question)["text"] == chat.ask(question, image).text
    visitor.close()


def test_webgpu_in_software_is_not_taken_unasked(address, browser):
    visitor = Visitor(browser, f"{address}/index.html")
    assert visitor.page.inner_text("#state") == "model · float32 · WebAssembly"
    visitor.close()
