# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The golden checkpoint in both layouts, and the two backbones that `compose` joins. No test writes into them."""

from pathlib import Path

import golden_checkpoint
import pytest
import torch
from backbones import save_language_model, save_siglip

from flashsloth.convert import convert_checkpoint


@pytest.fixture(scope="session")
def weights() -> dict[str, torch.Tensor]:
    """The golden checkpoint's tensors by their published names."""
    return golden_checkpoint.weights()


@pytest.fixture(scope="session")
def source(weights, tmp_path_factory) -> Path:
    """The golden checkpoint in the published layout."""
    folder = tmp_path_factory.mktemp("published") / "source"
    golden_checkpoint.write(folder, weights)
    return folder


@pytest.fixture(scope="session")
def converted(source, tmp_path_factory) -> Path:
    """The golden checkpoint in our layout."""
    return convert_checkpoint(source, tmp_path_factory.mktemp("converted") / "golden")


@pytest.fixture(scope="session")
def backbone_folders(tmp_path_factory) -> dict[str, Path]:
    """A language model with its tokenizer, and a SigLIP."""
    root = tmp_path_factory.mktemp("backbones")
    save_language_model(root / "language")
    save_siglip(root / "vision")
    return {"language": root / "language", "vision": root / "vision"}
