# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What `import flashsloth` does and does not do, and whether setup.cfg is true to the repository."""

import configparser
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import flashsloth


ROOT = Path(flashsloth.__file__).parent
# A Python file at the root travels in the wheel, so that each one is there on purpose.
ROOT_MODULES = {
    "extras",
    "__init__",
    "__main__",
    "arguments",
    "attention_maps",
    "loading",
    "parts",
    "configuration_flashsloth",
    "embedded_query_flashsloth",
    "image_processing_flashsloth",
    "image_reading_flashsloth",
    "modeling_flashsloth",
    "processing_flashsloth",
}
NOT_INSTALLED = {"tests", "examples"}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_import_is_cheap():
    code = "import sys, flashsloth; print([name for name in ('torch', 'transformers', 'PIL') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names():
    for name in flashsloth.__all__:
        assert getattr(flashsloth, name).__name__ == name
        assert name in dir(flashsloth)


def test_unknown_name():
    with pytest.raises(AttributeError, match="'flashsloth' has no attribute 'FlashSlug'"):
        _ = flashsloth.FlashSlug
    with pytest.raises(ImportError, match="FlashSlug"):
        from flashsloth import FlashSlug  # noqa: F401


def test_one_copy_of_each_module():
    from flashsloth.configuration_flashsloth import FlashSlothConfig

    assert flashsloth.FlashSlothConfig is FlashSlothConfig
    assert not [name for name in sys.modules if name.endswith("configuration_flashsloth") and "." not in name]


def test_register_twice():
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    flashsloth.register_auto_classes()
    flashsloth.register_auto_classes()
    config_class = flashsloth.FlashSlothConfig
    assert isinstance(AutoConfig.for_model("flashsloth"), config_class)
    for auto_class in (AutoModelForCausalLM, AutoModelForMultimodalLM):
        assert auto_class._model_mapping[config_class] is flashsloth.FlashSlothForCausalLM
    assert AutoProcessor is not None and PROCESSOR_MAPPING[config_class] is flashsloth.FlashSlothProcessor


def test_version():
    assert importlib.metadata.version("flashsloth") == flashsloth.__version__


def test_every_package_is_listed(setup_cfg):
    listed = set(setup_cfg["options"]["packages"].split())
    folders = {
        path.parent.relative_to(ROOT)
        for path in ROOT.glob("**/__init__.py")
        if not any(part.startswith(".") or part in NOT_INSTALLED | {"build"} for part in path.relative_to(ROOT).parts)
    }
    assert listed == {".".join(("flashsloth", *folder.parts)) for folder in folders}


def test_no_stray_module_at_the_root():
    assert {path.stem for path in ROOT.glob("*.py")} == ROOT_MODULES


def read_pins(file: str) -> dict[str, str]:
    """Versions by package, from a constraints file."""
    lines = (ROOT / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def read_requirements(setup_cfg, *extras: str) -> list[Requirement]:
    """What the package needs, and those extras."""
    parts = [setup_cfg["options"]["install_requires"], *(setup_cfg["options.extras_require"][name] for name in extras)]
    requirements = [Requirement(line) for part in parts for line in part.splitlines() if line]
    return [requirement for requirement in requirements if requirement.name != "flashsloth"]


def test_pins_are_within_the_bounds(setup_cfg):
    extras = ("train", "quantize", "serve", "demo", "cluster", "export", "executorch", "dev")
    requirements = read_requirements(setup_cfg, *extras)
    pins = read_pins("constraints.txt")
    assert pins.keys() == {requirement.name for requirement in requirements}
    for requirement in requirements:
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_the_requirements_without_torch_are_those_of_the_package(setup_cfg):
    lines = (ROOT / "requirements-onnx.txt").read_text(encoding="utf-8").splitlines()
    listed = {str(Requirement(line)) for line in lines if line and not line.startswith("#")}
    needed = {str(one) for one in read_requirements(setup_cfg, "onnx") if one.name not in ("torch", "accelerate")}
    assert listed == needed | {str(Requirement("jinja2>=3.1"))}


def test_what_lmms_eval_needs_is_pinned(setup_cfg):
    pins = read_pins("constraints.txt") | read_pins("constraints-lmms.txt")
    for requirement in read_requirements(setup_cfg, "eval"):
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_oldest_pins_are_the_lower_bounds(setup_cfg):
    bounds = {}
    for requirement in read_requirements(setup_cfg, "train", "quantize", "dev"):
        (bounds[requirement.name],) = (
            Version(bound.version) for bound in requirement.specifier if bound.operator == ">="
        )
    oldest = {name: Version(version) for name, version in read_pins("constraints-oldest.txt").items()}
    assert oldest == {name: bounds[name] for name in oldest}
    needed = {requirement.name for requirement in read_requirements(setup_cfg, "train", "quantize")}
    assert needed <= oldest.keys()


@pytest.mark.parametrize("name", ["flashsloth-tiny", "flashsloth-tiny-hd"])
def test_embedded_checkpoints_are_small_and_hold_this_code(name):
    files = {path.name: path for path in (ROOT / "checkpoints" / name).iterdir()}
    assert {"config.json", "processor_config.json", "chat_template.jinja"} <= set(files)
    assert sum(path.stat().st_size for path in files.values()) <= 16e6
    for module in ("configuration", "embedded_query", "image_processing", "image_reading", "modeling", "processing"):
        code = f"{module}_flashsloth.py"
        assert files[code].read_bytes() == (ROOT / code).read_bytes(), f"stale: cp {code} checkpoints/{name}"
