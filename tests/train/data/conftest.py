# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A cache of `datasets` for each test, and images."""

from pathlib import Path

import datasets
import pytest
from samples import make_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of the datasets library's cache, which is empty for each test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # 5 seconds at the end of a stream
    return tmp_path / "cache"


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """A folder of three images: 0.png, 1.png and 2.png."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        make_image(index).save(folder / f"{index}.png")
    return folder
