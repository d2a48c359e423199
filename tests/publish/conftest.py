# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A model folder to upload."""

import shutil
from pathlib import Path

import pytest
from samples import make_model


@pytest.fixture(scope="session")
def saved(processor, tmp_path_factory) -> Path:
    """A folder with three shards, which no test changes."""
    folder = tmp_path_factory.mktemp("saved")
    make_model().save_pretrained(folder, max_shard_size="100KB")
    processor.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) == 3
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of it, which a test may change."""
    return shutil.copytree(saved, tmp_path / "folder")
