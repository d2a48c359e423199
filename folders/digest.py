# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A hash of a model folder, which says whether two runs asked the same model."""

import hashlib
from pathlib import Path


# The files that a model's answers depend on.
MODEL_FILES = ("*.safetensors", "*.bin", "*.py", "*.jinja", "config.json", "generation_config.json")
MODEL_FILES += ("*token*.json", "*processor*.json", "onnx/*")


def digest_of_model(folder: Path) -> str:
    """A hash of weights, code and settings. A name says little: folders are written anew, and branches move."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.is_file()}):
        with file.open("rb") as content:
            digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
