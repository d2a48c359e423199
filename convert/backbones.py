# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The two trained parts of a new model, as other repositories hold them: a causal language model and a SigLIP."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from flashsloth.convert.names import LANGUAGE_MODEL, VISION_MODEL, renamed
from flashsloth.convert.vision_tower import ORIGIN_FIELDS, is_unused, read_vision_fields
from flashsloth.folders.config_file import check_depth, read_config_file
from flashsloth.folders.errors import config_errors
from flashsloth.folders.tensors import Checkpoint, LazyTensor


@dataclass(frozen=True)
class Backbone:
    """
    A trained part.

    Args:
        folder (`Path`): where it is.
        config (`PreTrainedConfig`): its architecture, as far as it is used.
        tensors (`dict[str, LazyTensor]`): its weights, under our names.
    """

    folder: Path
    config: PreTrainedConfig
    tensors: dict[str, LazyTensor]


def read_language_model(folder: Path) -> Backbone:
    """
    A causal language model.

    Raises:
        ValueError: If it is missing, damaged, quantized or of another kind.
    """
    checkpoint = Checkpoint(folder)
    config = _read_text_config(folder, checkpoint)
    tensors = renamed(checkpoint, LANGUAGE_MODEL)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)  # some checkpoints store it although it is the embedding
    return Backbone(folder, config, tensors)


def read_vision_model(folder: Path, feature_layer: int) -> Backbone:
    """
    The vision half of a SigLIP, up to the layer whose output is used.

    Args:
        folder (`Path`): of the whole model, or of its vision half.
        feature_layer (`int`): that layer, counted from the end; -1 is the last one.

    Raises:
        ValueError: If it is missing, damaged or of another kind, or has no such layer.
    """
    checkpoint = Checkpoint(folder)
    # The vision half alone was saved with this prefix by transformers 4, and is without it by transformers 5.
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in checkpoint) else ""
    config = _read_vision_config(folder, checkpoint, feature_layer, prefix)
    used = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint.items()
        if name.startswith(prefix) and not is_unused(name, config.num_hidden_layers, prefix)
    }
    return Backbone(folder, config, renamed(used, VISION_MODEL))


def _read_text_config(folder: Path, tensors: Mapping[str, LazyTensor]) -> PreTrainedConfig:
    file = folder / "config.json"
    fields = {name: value for name, value in read_config_file(file).items() if name not in ORIGIN_FIELDS}
    model_type = fields.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ValueError(f"{file} has model_type {model_type!r}, which transformers does not know.")
    if CONFIG_MAPPING[model_type].sub_configs:
        raise ValueError(f"{folder} is a {model_type!r} model of several parts, not a language model alone.")
    if "quantization_config" in fields:
        raise ValueError(f"{folder} holds quantized weights. Pass the model that they were made from.")
    check_depth(fields, tensors, "model.layers.", file)
    with config_errors(file):
        config = AutoConfig.for_model(model_type, **fields)
        # `compose` computes with these before the tensors are compared with all sizes.
        if min(config.vocab_size, config.max_position_embeddings, config.num_attention_heads) < 1:
            raise ValueError(f"{file} has a size below 1.")
        return config


def _read_vision_config(
    folder: Path, tensors: Mapping[str, LazyTensor], feature_layer: int, prefix: str
) -> PreTrainedConfig:
    file = folder / "config.json"
    fields = {**read_vision_fields(file), "model_type": "siglip_vision_model"}
    check_depth(fields, tensors, f"{prefix}encoder.layers.", file)
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
