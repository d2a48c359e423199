# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The config.json of the published layout, a Phi's with more fields, and ours."""

from collections.abc import Mapping
from pathlib import Path

from transformers import PhiConfig, SiglipVisionConfig

from flashsloth import FlashSlothConfig
from flashsloth.convert.published_tower import shape_of
from flashsloth.folders.config_file import read_config_file
from flashsloth.folders.tensors import LazyTensor


# Fields that the published config shares with `PhiConfig`; without the first five nothing can be built.
REQUIRED_TEXT_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TEXT_FIELDS = REQUIRED_TEXT_FIELDS + (
    "attention_dropout",
    "embd_pdrop",
    "hidden_act",
    "initializer_range",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_key_value_heads",
    "partial_rotary_factor",
    "qk_layernorm",
    "resid_pdrop",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "use_cache",
)

# What the published code fixes, so that its config does not hold it.
FIXED_FIELDS = {
    "pooling_mode": "attention",
    "pooling_size": 3,
    "projector_hidden_act": "gelu",
    "query_layer": 7,
    "query_base_token_id": 764,
    "query_slot_token_id": 50295,
    "eos_token_id": 50296,
    "image_token_id": 50297,
    "image_suffix_length": 1,
    "turn_prefix_length": 2,
    "lm_head_bias": True,
}


def read_published_config(src: Path) -> dict:
    """
    The fields of a published checkpoint's config.json.

    Raises:
        ValueError: If it is damaged, or that of another model.
    """
    file = src / "config.json"
    fields = read_config_file(file)
    model_type = fields.get("model_type")
    if model_type == FlashSlothConfig.model_type:
        raise ValueError(f"{src} is in this project's layout already; --to-original converts it back.")
    if model_type != "phi" or "mm_hidden_size" not in fields:
        raise ValueError(
            f"{file} is no published FlashSloth config: it has model_type {model_type!r} and "
            f"{'a' if 'mm_hidden_size' in fields else 'no'} field mm_hidden_size; expected are 'phi' and one. "
            "To join a plain language model with a vision model use `flashsloth compose`."
        )
    missing = [name for name in REQUIRED_TEXT_FIELDS if name not in fields]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}.")
    projector = fields.get("mm_projector_type")
    if projector != "mlp2x_gelu":
        raise ValueError(f"{file} has mm_projector_type {projector!r}; only 'mlp2x_gelu' is supported.")
    return fields


def config_from_published(
    fields: dict, tensors: Mapping[str, LazyTensor], vision_config: SiglipVisionConfig
) -> FlashSlothConfig:
    """
    Our config.

    Args:
        fields (`dict`): the published config, for the sizes of the decoder.
        tensors (`Mapping[str, LazyTensor]`): the published weights, for the sizes of the query tokens.
        vision_config (`SiglipVisionConfig`): of the tower.
    """
    text_fields = {name: fields[name] for name in TEXT_FIELDS if name in fields}
    num_query_tokens, _ = shape_of(tensors, "model.learnable_tokens.token", 2)
    query_hidden_size, _ = shape_of(tensors, "model.lqformer.down_projector_image.weight", 2)
    defaults = FlashSlothConfig()
    text_config = PhiConfig(
        **text_fields,
        bos_token_id=defaults.bos_token_id,
        eos_token_id=defaults.eos_token_id,
        pad_token_id=defaults.pad_token_id,
    )
    return FlashSlothConfig(
        vision_config=vision_config,
        text_config=text_config,
        num_query_tokens=num_query_tokens,
        query_hidden_size=query_hidden_size,
        query_num_heads=fields["num_attention_heads"],
        tie_word_embeddings=fields.get("tie_word_embeddings", False),
        initializer_range=fields.get("initializer_range", defaults.initializer_range),
        original_config=fields,  # the model does not read it; `to_original` writes it again
        **FIXED_FIELDS,
    )


def check_has_published_form(config: FlashSlothConfig) -> None:
    """Raises a `ValueError` if the published code, which fixes many sizes, could not run the model."""
    expected = {
        **FIXED_FIELDS,
        "query_num_heads": config.text_config.num_attention_heads,
        "text_config.model_type": "phi",
        "vision_config.model_type": "siglip_vision_model",
    }
    found = {
        **config.to_dict(),
        "text_config.model_type": config.text_config.model_type,
        "vision_config.model_type": config.vision_config.model_type,
    }
    differing = [
        f"{name} {found[name]!r} instead of {value!r}" for name, value in expected.items() if found[name] != value
    ]
    if config.num_query_tokens == 0:
        differing.append("no query tokens")
    if differing:
        raise ValueError(f"This model has no form in the published layout: {', '.join(differing)}.")


def published_config(config: FlashSlothConfig, dtype: str, hd: bool) -> dict:
    """
    The fields of config.json in the published layout: those that the model was converted from, or, of a model that was
    composed here, new ones.

    Args:
        config (`FlashSlothConfig`): ours.
        dtype (`str`): of the weights.
        hd (`bool`): whether images are processed in high definition by default.
    """
    original = config.original_config
    if original is not None:
        return {**original, "image_hd": hd} if "image_hd" in original else original
    text = config.text_config.to_dict()
    fields = {name: text[name] for name in TEXT_FIELDS if name in text}
    return {
        **fields,
        "architectures": ["FlashSlothForCausalLM"],
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.bos_token_id,
        "image_aspect_ratio": "square",
        "image_hd": hd,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": f"siglip-patch{config.vision_config.patch_size}-{config.vision_config.image_size}",
        "model_type": "phi",
        "partial_rotary_factor": config.text_config.rope_parameters["partial_rotary_factor"],
        "rope_scaling": None,
        "rope_theta": config.text_config.rope_parameters["rope_theta"],
        "tokenizer_model_max_length": config.text_config.max_position_embeddings,
        "tokenizer_padding_side": "right",
        "torch_dtype": dtype,
        "use_mm_proj": True,
    }
