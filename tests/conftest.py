# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What all tests run with: no network, one thread, caches of their own, and the fixtures that several folders use: a
FlashSloth of a few thousand parameters, its processor, and conversations, all made on the spot.
"""
# ruff: noqa: E402

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


# Before the first import of a library that reads them. Commands that a test starts inherit them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The tests run in two processes, and tiny models gain nothing from threads.
os.environ["OMP_NUM_THREADS"] = "1"
# Of this process alone, so that tests that run at the same time share no cache, and none uses that of the user.
CACHES = tempfile.TemporaryDirectory(prefix="flashsloth-tests-")
os.environ["HF_HOME"] = CACHES.name

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from samples import NUM_QUERY_TOKENS, assistant, make_image, make_model, make_tokenizer, user

from flashsloth import (
    FlashSlothForCausalLM,
    FlashSlothImageProcessor,
    FlashSlothProcessor,
    register_auto_classes,
)
from flashsloth.parts import SHIPPED_CHECKPOINT
from flashsloth.tiny.data import make_dataset


register_auto_classes()

MAX_ID_LENGTH = 60  # of one parametrized value in the name of a test, in characters


def pytest_make_parametrize_id(val) -> str | None:
    """Names the cases of parametrized tests by their content, where pytest would only number them."""
    if isinstance(val, list | tuple | dict):
        val = json.dumps(val, default=lambda item: type(item).__name__)
    elif isinstance(val, torch.dtype | Exception):
        val = repr(val)
    if not isinstance(val, str):
        return None  # pytest's own name
    name = val.encode("unicode_escape").decode()
    return name if len(name) <= MAX_ID_LENGTH else f"{name[: MAX_ID_LENGTH - 3]}..."


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[LoopbackHub]:
    """A Hub on the loopback that this process uses: huggingface_hub has already read its environment variables."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LoopbackHub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield hub


@pytest.fixture
def model() -> FlashSlothForCausalLM:
    """A random model; its own, so that a test may change it."""
    return make_model()


@pytest.fixture(scope="session")
def processor() -> FlashSlothProcessor:
    """The processor of `model`; one for all tests, which must not change it."""
    image_processor = FlashSlothImageProcessor(size={"height": 24, "width": 24})
    return FlashSlothProcessor(image_processor, make_tokenizer(), 4, NUM_QUERY_TOKENS)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Gives the folder of a name, for all tests, which must not change it. What makes it runs in one process only."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        with FileLock(base / f"{name}.lock"):
            if not (base / name).exists():
                make(base / name)
        return base / name

    return made


@pytest.fixture(scope="session")
def exported(made_once) -> Path:
    """The shipped checkpoint as ONNX graphs in float32, int8 and int4; one for all tests, which must not change it."""
    from flashsloth.export.onnx import export_onnx

    return made_once("exported", lambda folder: export_onnx(SHIPPED_CHECKPOINT, folder, ["float32", "int8", "int4"]))


@pytest.fixture(scope="module")
def start(tmp_path_factory, processor) -> Path:
    """What a training stage starts from: the folders `model` (a random one) and `data` (twelve conversations)."""
    folder = tmp_path_factory.mktemp("start")
    make_model().save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    make_dataset("questions", "train", 12).save_to_disk(folder / "data")
    return folder


@pytest.fixture(scope="session")
def chats() -> dict[str, list[dict]]:
    """Every kind of conversation that a batch may mix."""
    return {
        "one image": [user(make_image(0), "What is this?")],
        "text only": [user("Name a prime number.")],
        "two images": [user(make_image(1), make_image(2), "Which is larger?")],
        "turns": [user(make_image(3), "A bird?"), assistant("Yes."), user("How many of them?")],
        "later image": [user("Hello."), assistant("Hi."), user(make_image(4), "What is in it?")],
        "image per turn": [user(make_image(5), "First?"), assistant("One."), user(make_image(6), "Second?")],
        "image last": [user("What do you see here?", make_image(7))],
    }
