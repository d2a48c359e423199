# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A SigLIP as the vision tower: its config, and which of its layers are used."""

import re
from collections.abc import Iterable
from pathlib import Path

from flashsloth.folders.config_file import read_config_file


# Fields of a config that say where it came from, and nothing about the architecture.
ORIGIN_FIELDS = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")

# How the names of tensors begin that a whole SigLIP has after its layers.
AFTER_THE_LAYERS = ("post_layernorm.", "head.")
LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def read_vision_fields(file: Path) -> dict:
    """
    The fields of a SigLIP config.json, of the whole model or of its vision half.

    Raises:
        ValueError: If it is damaged, that of another model, or lacks a size.
    """
    fields = read_config_file(file)
    fields = fields.get("vision_config", fields)
    if not isinstance(fields, dict):
        raise ValueError(f"{file} has a vision_config that is a {type(fields).__name__}, not an object.")
    if fields.get("model_type", "siglip_vision_model") != "siglip_vision_model":
        raise ValueError(f"{file} is a config of {fields['model_type']!r}, not of a SigLIP vision model.")
    missing = [name for name in ("num_attention_heads", "image_size") if name not in fields]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}. Pass the config.json of the SigLIP model.")
    return {name: value for name, value in fields.items() if name not in ORIGIN_FIELDS}


def is_whole(names: Iterable[str], prefix: str = "") -> bool:
    """Whether a tower is as SigLIP has it, and not cut at the layer whose output is used."""
    return f"{prefix}post_layernorm.weight" in names


def num_layers(names: Iterable[str], prefix: str = "") -> int:
    """How many layers of a tower are stored."""
    layers = (LAYER.match(name.removeprefix(prefix)) for name in names if name.startswith(prefix))
    return max((int(match[1]) for match in layers if match), default=-1) + 1


def is_unused(name: str, num_used_layers: int, prefix: str = "") -> bool:
    """
    Whether a tensor of the tower comes after the layer whose output is used.

    Args:
        name (`str`): of the tensor.
        num_used_layers (`int`): layers up to that one.
        prefix (`str`, *optional*, defaults to `""`): how the names of the tower's tensors begin.
    """
    if not name.startswith(prefix):
        return False
    name = name.removeprefix(prefix)
    match = LAYER.match(name)
    return int(match[1]) >= num_used_layers if match else name.startswith(AFTER_THE_LAYERS)
