# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What lmms-eval finds of this package, with a stand-in where it is not installed."""

import configparser
import importlib.metadata
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import flashsloth
from flashsloth.eval import lmms_entry_point


ROOT = Path(flashsloth.__file__).parent


@dataclass
class Manifest:
    """lmms-eval's, of version 0.7.3."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


def test_the_manifest_names_the_class(monkeypatch):
    stand_in = types.ModuleType("registry_v2")
    stand_in.ModelManifest = Manifest
    for name in ("lmms_eval", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", stand_in)
    assert lmms_entry_point.manifest() == Manifest("flashsloth", chat_class_path="flashsloth.eval.lmms.FlashSlothLmms")
    module, _, name = lmms_entry_point.CLASS_PATH.rpartition(".")
    file = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    assert f"\nclass {name}(" in file.read_text(encoding="utf-8")


def test_the_package_declares_the_entry_point():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    declared = settings["options.entry_points"]["lmms_eval.models"]
    point = importlib.metadata.EntryPoint(*map(str.strip, declared.strip().split("=")), "lmms_eval.models")
    assert point.name == "flashsloth" and point.load() is lmms_entry_point.manifest


def test_nothing_large_is_imported():
    """lmms-eval imports it for every model."""
    code = "import sys, flashsloth.eval.lmms_entry_point; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
