# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What a config says is checked against the weights beside it before anything is built from it."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from flashsloth.folders.json_files import one_line, read_json


# Numbers of which transformers makes lists as soon as it reads a config, and far more than any model has of them.
LISTED_COUNTS = ("num_labels", "num_hidden_layers")
MAX_COUNT = 100_000


def read_config(file: Path) -> dict:
    """
    The fields of a config.json, before transformers reads it.

    Raises:
        ValueError: If there is none, it is damaged, or reading it would take memory beyond reason.
    """
    fields = read_json(file)
    parts = [fields, *(value for value in fields.values() if isinstance(value, dict))]
    for name in LISTED_COUNTS:
        largest = max((part[name] for part in parts if isinstance(part.get(name), int)), default=0)
        if largest > MAX_COUNT:
            raise ValueError(f"{file} has {name} {largest}; no model has more than {MAX_COUNT}.")
    return fields


@contextmanager
def config_errors(where) -> Iterator[None]:
    """
    A config may hold anything, and where it breaks a library is not foreseeable: a size may be text, negative, or too
    large for a tensor. Each becomes one `ValueError` that names `where`; those that the block raises itself pass.
    """
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(f"{where} is contradictory: {one_line(error.__cause__ or error)}") from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{where} does not describe a model that can be built ({reason}).") from error


def check_depth(fields: dict, names: Iterable[str], layers: str, where) -> None:
    """
    Compares the number of layers in a config's fields with the tensors: what is built without memory for its weights
    still takes time by that number. Other sizes cost nothing before [`check_tensors`] compares them.

    Args:
        fields (`dict`): of the config of one tower, as they were read.
        names (`Iterable[str]`): of the tensors.
        layers (`str`): how the names of its layers begin, such as "model.layers.".
        where: the config's file, for the error.
    """
    layer = re.compile(rf"{re.escape(layers)}(\d+)\.")
    depth = max((int(match[1]) + 1 for name in names if (match := layer.match(name))), default=0)
    claimed = fields.get("num_hidden_layers")
    if isinstance(claimed, int) and claimed > depth:
        raise ValueError(f"{where} has num_hidden_layers {claimed}, but the weights beside it hold {depth} layers.")
