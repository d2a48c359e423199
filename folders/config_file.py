# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A config.json as plain fields, with bounds on its numbers, before any library builds something from it."""

import re
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import is_torch_available

from flashsloth.folders.json_files import objects_in, read_settings


# Lists of these lengths are made as soon as a config is read. No model comes near the bound.
LISTED_COUNTS = (
    "num_labels",
    "num_hidden_layers",
    "num_query_tokens",
    "image_suffix_length",
    "turn_prefix_length",
)
MAX_COUNT = 100_000
# Fields of a rotary embedding that are divisors or shares, and their largest values.
ROTARY = {"partial_rotary_factor": 1, "rope_theta": 1e15, "factor": 1e6}
ACTIVATION = "hidden_act"  # how the fields end that name one
IMPLEMENTATION = "_implementation"  # how the fields end that choose a kernel, such as attn_implementation


def read_config_file(file: Path) -> dict:
    """
    The fields of a config.json.

    Raises:
        ValueError: If there is none, it is damaged, transformers would take memory beyond reason to read it, or it
            asks for code of a Hub repository.
    """
    fields = read_settings(file)
    parts = list(objects_in(fields))
    for part in parts:
        for name in ROTARY.keys() & part.keys():
            value = part[name]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value <= ROTARY[name]):
                raise ValueError(
                    f"{file} has {name} {value!r}, which is not a number above 0 and up to {ROTARY[name]}."
                )
        for name, value in part.items():
            if name.endswith(ACTIVATION) and not _is_activation(value):
                raise ValueError(f"{file} has {name} {value!r}, an activation that transformers does not know.")
            # transformers would fetch a kernel of this name, and run it
            if name.endswith(IMPLEMENTATION) and "/" in str(value):
                raise ValueError(
                    f"{file} has {name} {value!r}, which is code of a Hub repository. Remove it from the config; a "
                    "kernel that you trust is chosen where the model is loaded."
                )
    for name in LISTED_COUNTS:
        largest = max((part[name] for part in parts if isinstance(part.get(name), int)), default=0)
        if largest > MAX_COUNT:
            raise ValueError(f"{file} has {name} {largest}; no model has more than {MAX_COUNT}.")
    return fields


def _is_activation(value) -> bool:
    """Whether transformers knows an activation; it has them where there is torch, and only there a model is built."""
    if not isinstance(value, str) or not is_torch_available():
        return isinstance(value, str)
    from transformers.activations import ACT2FN

    return value in ACT2FN


def check_depth(fields: dict, names: Iterable[str], layers: str, where) -> None:
    """
    Compares a config's number of layers with the weights. A model that is built without memory for its weights still
    takes time for each layer; its other sizes cost nothing before they are compared with the shapes of the tensors.

    Args:
        fields (`dict`): those of one tower's config.
        names (`Iterable[str]`): of the tensors.
        layers (`str`): how the names of the tower's layers begin, such as "model.layers.".
        where: the config's file, for the message.

    Raises:
        ValueError: If the config has more layers than the weights.
    """
    layer = re.compile(rf"{re.escape(layers)}(\d+)\.")
    depth = max((int(match[1]) + 1 for name in names if (match := layer.match(name))), default=0)
    claimed = fields.get("num_hidden_layers")
    if isinstance(claimed, int) and claimed > depth:
        raise ValueError(f"{where} has num_hidden_layers {claimed}, but the weights beside it hold {depth} layers.")
