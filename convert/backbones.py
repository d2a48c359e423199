# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The two trained parts of a new model, as other repositories hold them: a causal language model and a SigLIP."""

import re
from collections.abc import Mapping
from pathlib import Path

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from flashsloth.convert.published_config import ORIGIN_FIELDS, read_vision_fields
from flashsloth.folders.config_file import check_depth, config_errors, read_config
from flashsloth.folders.tensors import LazyTensor


# Where the tensors of the two backbones go: beginnings of their names there and here.
LANGUAGE_MODEL_RENAMES = (("model.", "model.language_model."), ("lm_head.", "lm_head."))
VISION_MODEL_RENAMES = (("embeddings.", "model.vision_tower.embeddings."), ("encoder.", "model.vision_tower.encoder."))


def read_text_config(folder: Path, tensors: Mapping[str, LazyTensor]) -> PreTrainedConfig:
    """The config of a causal language model, without traces of where it came from."""
    file = folder / "config.json"
    fields = {name: value for name, value in read_config(file).items() if name not in ORIGIN_FIELDS}
    model_type = fields.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ValueError(f"{file} has model_type {model_type!r}, which transformers does not know.")
    if CONFIG_MAPPING[model_type].sub_configs:
        raise ValueError(f"{folder} is a {model_type!r} model of several parts, not a language model alone.")
    if "quantization_config" in fields:
        raise ValueError(f"{folder} holds quantised weights. Pass the model that they were made from.")
    check_depth(fields, tensors, "model.layers.", file)
    with config_errors(file):
        config = AutoConfig.for_model(model_type, **fields)
        # Sizes that this file counts with before the tensors are compared with all of them.
        if min(config.vocab_size, config.max_position_embeddings, config.num_attention_heads) < 1:
            raise ValueError(f"{file} has a size below 1.")
        return config


def read_vision_config(folder: Path, tensors: Mapping[str, LazyTensor], feature_layer: int) -> PreTrainedConfig:
    """The config of the vision half of a SigLIP, cut at the layer whose output is used."""
    file = folder / "config.json"
    fields = {**read_vision_fields(file), "model_type": "siglip_vision_model"}
    check_depth(fields, tensors, f"{_vision_prefix(tensors)}encoder.layers.", file)
    with config_errors(file):
        config = AutoConfig.for_model(**fields)
        depth = config.num_hidden_layers + 1 + feature_layer
    if feature_layer > -1 or depth < 1:
        raise ValueError(
            f"vision_feature_layer={feature_layer} must lie between -1 (the last of the tower's "
            f"{config.num_hidden_layers} layers) and {-config.num_hidden_layers} (its first)."
        )
    config.num_hidden_layers = depth
    config.vision_use_head = False
    return config


def language_tensors(checkpoint: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The weights of a causal language model under our names."""
    return _renamed(checkpoint, LANGUAGE_MODEL_RENAMES)


def vision_tensors(checkpoint: Mapping[str, LazyTensor], num_layers: int) -> dict[str, LazyTensor]:
    """What of a SigLIP model, whole or its vision half, goes into the tower."""
    prefix = _vision_prefix(checkpoint)
    layer = re.compile(r"encoder\.layers\.(\d+)\.")
    used = {}
    for name, tensor in checkpoint.items():
        if not name.startswith(prefix):
            continue  # the text half
        name = name.removeprefix(prefix)
        match = layer.match(name)
        if name.startswith(("post_layernorm.", "head.")) or (match and int(match[1]) >= num_layers):
            continue
        used[name] = tensor
    return _renamed(used, VISION_MODEL_RENAMES)


def _vision_prefix(checkpoint: Mapping[str, LazyTensor]) -> str:
    """How the names of SigLIP's vision half begin."""
    # The vision half alone was saved with this prefix by transformers 4, and is without it by transformers 5.
    return "vision_model." if any(name.startswith("vision_model.") for name in checkpoint) else ""


def _renamed(tensors: Mapping[str, LazyTensor], table: tuple[tuple[str, str], ...]) -> dict[str, LazyTensor]:
    """Tensors under the names of this project; those that the table does not know keep theirs."""
    result = {}
    for name, tensor in tensors.items():
        new_name = next((new + name.removeprefix(old) for old, new in table if name.startswith(old)), name)
        result[new_name] = tensor
    return result
