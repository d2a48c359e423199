# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The commands that install what is missing, by the requirements that pip knows of the package."""

import pytest

from flashsloth import extras
from flashsloth.extras import extra_command, missing_requirements, package_command


REQUIRED = [
    "torch>=2.13",
    "accelerate>=1.15",
    "pillow>=12.0",
    'uvicorn>=0.50; extra == "serve"',
    'starlette>=1.0; extra == "serve"',
    'winloop; platform_system == "none" and extra == "serve"',
    'ray[data]<2.64,>=2.60; extra == "cluster"',
]


@pytest.fixture
def without(monkeypatch):
    """Makes packages missing."""
    monkeypatch.setattr(extras, "requires", lambda package: REQUIRED)

    def remove(*names: str) -> None:
        monkeypatch.setattr(extras, "find_spec", lambda name: None if name in names else object())
        monkeypatch.setattr(extras, "_is_installed", lambda name: name not in names)

    return remove


def test_where_torch_is_the_extra_is_named(without):
    without("uvicorn")
    assert extra_command("serve") == extra_command("serve", needs_torch=False) == "pip install 'flashsloth[serve]'"


def test_where_there_is_none_it_brings_none_to_whoever_needs_none(without):
    without("torch", "accelerate", "uvicorn")
    assert extra_command("serve", needs_torch=False) == "pip install 'uvicorn>=0.50' 'starlette>=1.0'"
    both = "pip install 'ray[data]<2.64,>=2.60' 'uvicorn>=0.50' 'starlette>=1.0'"
    assert extra_command("cluster,serve", needs_torch=False) == both
    assert extra_command("cluster") == "pip install 'flashsloth[cluster]'"


def test_a_package_by_the_name_that_pip_has_for_it(without):
    without("PIL", "pillow", "yaml")
    assert package_command("PIL") == "pip install 'pillow>=12.0'"
    assert package_command("yaml") == "pip install 'pyyaml'"
    assert missing_requirements() == ["pillow"]


def test_torch_comes_with_accelerate(without):
    without("torch", "accelerate")
    assert package_command("torch") == "pip install 'torch>=2.13' 'accelerate>=1.15'"
    assert missing_requirements() == []
    without("torch")
    assert package_command("torch") == "pip install 'torch>=2.13'"


def test_files_that_pip_did_not_install(without, monkeypatch):
    def requires(package: str):
        raise extras.PackageNotFoundError(package)

    without("torch", "uvicorn")
    monkeypatch.setattr(extras, "requires", requires)
    assert extra_command("serve", needs_torch=False) == "pip install 'flashsloth[serve]'"
    assert package_command("torch") == "pip install 'torch'"
