# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The published checkpoints' config.json, in which the vision fields are flattened, and ours."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from transformers import PhiConfig, SiglipVisionConfig

from flashsloth import FlashSlothConfig
from flashsloth.folders.config_file import read_config
from flashsloth.folders.tensors import LazyTensor


logger = logging.getLogger(__name__)

VISION = "model.vision_tower.vision_tower.vision_model."  # how the tower's tensors begin

# Fields that the published config has in common with `PhiConfig`; without the first five nothing can be built.
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

# What the published code fixes, and its config therefore does not hold.
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

# Fields of a backbone's config that tell where it came from, and nothing about its architecture.
ORIGIN_FIELDS = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")

SO400M_WIDTH, SO400M_HEADS = 1152, 16  # the tower of all published checkpoints, google/siglip-so400m-patch14-384


def read_published_config(src: Path) -> dict:
    """The config.json of a published checkpoint, checked to be one."""
    file = src / "config.json"
    published = read_config(file)
    model_type = published.get("model_type")
    if model_type == FlashSlothConfig.model_type:
        raise ValueError(f"{src} is in this project's layout already; --to-original converts it back.")
    if model_type != "phi" or "mm_hidden_size" not in published:
        raise ValueError(
            f"{file} is no published FlashSloth config: it has model_type {model_type!r} and "
            f"{'a' if 'mm_hidden_size' in published else 'no'} field mm_hidden_size; expected are 'phi' and one. "
            "To join a plain language model with a vision model use `flashsloth compose`."
        )
    missing = [name for name in REQUIRED_TEXT_FIELDS if name not in published]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}.")
    projector = published.get("mm_projector_type")
    if projector != "mlp2x_gelu":
        raise ValueError(f"{file} has mm_projector_type {projector!r}; only 'mlp2x_gelu' is supported.")
    return published


def config_from_published(
    published: dict, tensors: Mapping[str, LazyTensor], vision_config: SiglipVisionConfig
) -> FlashSlothConfig:
    """Our config: decoder sizes from the published one, query sizes from tensors, the rest as the code fixes it."""
    text_fields = {name: published[name] for name in TEXT_FIELDS if name in published}
    num_query_tokens, _ = shape_of(tensors, "model.learnable_tokens.token", 2)
    query_hidden_size, _ = shape_of(tensors, "model.lqformer.down_projector_image.weight", 2)
    defaults = FlashSlothConfig()
    token_ids = {name: getattr(defaults, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return FlashSlothConfig(
        vision_config=vision_config,
        text_config=PhiConfig(**text_fields, **token_ids),
        num_query_tokens=num_query_tokens,
        query_hidden_size=query_hidden_size,
        query_num_heads=published["num_attention_heads"],
        tie_word_embeddings=published.get("tie_word_embeddings", False),
        initializer_range=published.get("initializer_range", defaults.initializer_range),
        # not read by the model: what `to_original` returns to
        original_config=published,
        **FIXED_FIELDS,
    )


def infer_vision_config(published: dict, checkpoint: Mapping[str, LazyTensor], vision_config) -> SiglipVisionConfig:
    """
    The tower's config from its tensors, and, for what they do not show, from SigLIP's config file, the tower's name,
    or so400m.
    """
    hidden_size, num_channels, patch_size, _ = shape_of(checkpoint, f"{VISION}embeddings.patch_embedding.weight", 4)
    num_patches, _ = shape_of(checkpoint, f"{VISION}embeddings.position_embedding.weight", 2)
    intermediate_size, _ = shape_of(checkpoint, f"{VISION}encoder.layers.0.mlp.fc1.weight", 2)
    fields = {
        "hidden_size": hidden_size,
        "num_channels": num_channels,
        "patch_size": patch_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_vision_layers(published, checkpoint),
        "vision_use_head": False,
    }
    if vision_config is not None:
        return SiglipVisionConfig(**{**read_vision_fields(Path(vision_config)), **fields})
    if hidden_size != SO400M_WIDTH:
        raise ValueError(
            f"The vision tower is {hidden_size} wide, so it is not SigLIP so400m ({SO400M_WIDTH}), and no tensor "
            "shows how many attention heads it has. Pass the SigLIP model's config.json with --vision-config."
        )
    grid_size = round(num_patches**0.5)
    # A view need not be a whole number of patches: so400m's 384 pixels make 27 patches of 14, and 6 pixels are cut.
    named = re.search(r"patch(\d+)-(\d+)$", str(published.get("mm_vision_tower", "")).rstrip("/"))
    image_size = int(named[2]) if named else grid_size * patch_size
    if grid_size**2 != num_patches or image_size // patch_size != grid_size:
        raise ValueError(
            f"The vision tower has {num_patches} positions, which is not the square of {image_size} // {patch_size} "
            "(image size // patch size). Pass the SigLIP model's config.json with --vision-config."
        )
    return SiglipVisionConfig(num_attention_heads=SO400M_HEADS, image_size=image_size, **fields)


def read_vision_fields(file: Path) -> dict:
    """The fields of a SigLIP config.json, of the whole model or of its vision half."""
    fields = read_config(file)
    fields = fields.get("vision_config", fields)
    if not isinstance(fields, dict):
        raise ValueError(f"{file} has a vision_config that is a {type(fields).__name__}, not an object.")
    if fields.get("model_type", "siglip_vision_model") != "siglip_vision_model":
        raise ValueError(f"{file} is a config of {fields['model_type']!r}, not of a SigLIP vision model.")
    missing = [name for name in ("num_attention_heads", "image_size") if name not in fields]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}. Pass the config.json of the SigLIP model.")
    return {name: value for name, value in fields.items() if name not in ORIGIN_FIELDS}


def num_vision_layers(published: dict, checkpoint: Mapping[str, LazyTensor]) -> int:
    """Layers up to the one whose output is read. Published checkpoints hold no others."""
    layers = {int(match[1]) for name in checkpoint if (match := re.match(rf"{VISION}encoder\.layers\.(\d+)\.", name))}
    depth = max(layers, default=-1) + 1
    if f"{VISION}post_layernorm.weight" in checkpoint:
        # a tower as SigLIP has it; the index counts hidden states, of which there is one more than layers
        return depth + 1 + published.get("mm_vision_select_layer", -2)
    return depth


def without_unused_layers(
    published: dict, checkpoint: Mapping[str, LazyTensor], vision_config: SiglipVisionConfig
) -> Mapping[str, LazyTensor]:
    """The checkpoint without what a whole SigLIP tower has behind the layer that is read; says so if there is any."""
    if f"{VISION}post_layernorm.weight" not in checkpoint:
        return checkpoint
    layer = re.compile(rf"{VISION}encoder\.layers\.(\d+)\.")

    def is_unused(name):
        match = layer.match(name)
        if match:
            return int(match[1]) >= vision_config.num_hidden_layers
        return name.startswith((f"{VISION}post_layernorm.", f"{VISION}head."))

    unused = [name for name in checkpoint if is_unused(name)]
    logger.warning(
        "The checkpoint holds a whole vision tower, of which only the first %d layers are used. %d tensors are "
        "dropped (such as %s), and --to-original will not bring them back.",
        vision_config.num_hidden_layers,
        len(unused),
        unused[0],
    )
    return {name: tensor for name, tensor in checkpoint.items() if name not in set(unused)}


def shape_of(tensors: Mapping[str, LazyTensor], name: str, num_dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor from which a size is inferred."""
    if name not in tensors:
        raise ValueError(f"The checkpoint is incomplete, 1 tensor missing that shows its sizes: {name}.")
    shape = tensors[name].shape
    if len(shape) != num_dimensions:
        raise ValueError(f"{name} is wrongly shaped: {list(shape)}, expected are {num_dimensions} dimensions.")
    return shape


def check_has_published_form(config: FlashSlothConfig) -> None:
    """Raises a `ValueError` if the published code, which fixes many sizes, could not run the model."""
    fixed = {
        **FIXED_FIELDS,
        "text_config.model_type": "phi",
        "vision_config.model_type": "siglip_vision_model",
        "query_num_heads": config.text_config.num_attention_heads,
    }
    found = {name: getattr(config, name) for name in FIXED_FIELDS}
    found["text_config.model_type"] = config.text_config.model_type
    found["vision_config.model_type"] = config.vision_config.model_type
    found["query_num_heads"] = config.query_num_heads
    differing = [f"{name} {found[name]!r} instead of {fixed[name]!r}" for name in fixed if found[name] != fixed[name]]
    if config.num_query_tokens == 0:
        differing.append("no query tokens")
    if differing:
        raise ValueError(f"This model has no form in the published layout: {', '.join(differing)}.")


def published_config(config: FlashSlothConfig, dtype: str, hd: bool) -> dict:
    """
    The config.json of the published layout: the one that the model was converted from, or, for a model composed here,
    one made from `config`.
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
