# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Hashes of a model folder and of its config, which say whether two of them are the same model."""

import hashlib
import json
from pathlib import Path


# The files that a model's answers depend on.
MODEL_FILES = ("*.safetensors", "*.bin", "*.py", "*.jinja", "config.json", "generation_config.json")
MODEL_FILES += ("*token*.json", "*processor*.json", "onnx/*")
# Fields of a config.json that say where a model comes from, or how it is loaded, and not what it computes.
CONFIG_NOTES = ("_name_or_path", "architectures", "auto_map", "dtype", "original_config", "torch_dtype")
CONFIG_NOTES += ("transformers_version",)


def digest_of_model(folder: Path) -> str:
    """A hash of weights, code and settings. A name says little: folders are written anew, and branches move."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.is_file()}):
        with file.open("rb") as content:
            digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def digest_of_config(fields: dict) -> str:
    """
    A hash of what a config describes, in whatever order and layout its file has it.

    Args:
        fields (`dict`): Of config.json; notes, such as `transformers_version`, do not count.
    """
    text = json.dumps(_without_notes(fields), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_notes(value):
    if isinstance(value, dict):
        return {name: _without_notes(item) for name, item in value.items() if name not in CONFIG_NOTES}
    return [_without_notes(item) for item in value] if isinstance(value, list) else value
