# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The vision tower of a published checkpoint, whose config.json says little about it."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from transformers import SiglipVisionConfig

from flashsloth.convert.names import PUBLISHED_TOWER
from flashsloth.convert.vision_tower import is_unused, is_whole, num_layers, read_vision_fields
from flashsloth.folders.tensors import LazyTensor


logger = logging.getLogger(__name__)

SO400M_WIDTH, SO400M_HEADS = 1152, 16  # the tower of all published checkpoints, google/siglip-so400m-patch14-384


def infer_vision_config(fields: dict, checkpoint: Mapping[str, LazyTensor], vision_config) -> SiglipVisionConfig:
    """
    The tower's config from its tensors. What they do not show is read from SigLIP's config file, or else it is that of
    so400m, with the image size in the tower's name.

    Args:
        fields (`dict`): of the published config.json.
        checkpoint (`Mapping[str, LazyTensor]`): the published weights.
        vision_config (`str` or `os.PathLike`, *optional*): SigLIP's config.json.

    Raises:
        ValueError: If a tensor is missing or its shape is none of a SigLIP, or SigLIP's config is needed.
    """
    embeddings = f"{PUBLISHED_TOWER}embeddings"
    hidden_size, num_channels, patch_size, _ = shape_of(checkpoint, f"{embeddings}.patch_embedding.weight", 4)
    num_patches, _ = shape_of(checkpoint, f"{embeddings}.position_embedding.weight", 2)
    intermediate_size, _ = shape_of(checkpoint, f"{PUBLISHED_TOWER}encoder.layers.0.mlp.fc1.weight", 2)
    sizes = {
        "hidden_size": hidden_size,
        "num_channels": num_channels,
        "patch_size": patch_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_used_layers(fields, checkpoint),
        "vision_use_head": False,
    }
    if vision_config is not None:
        return SiglipVisionConfig(**{**read_vision_fields(Path(vision_config)), **sizes})
    if hidden_size != SO400M_WIDTH:
        raise ValueError(
            f"The vision tower is {hidden_size} wide, so it is not SigLIP so400m ({SO400M_WIDTH}), and no tensor "
            "shows how many attention heads it has. Pass the SigLIP model's config.json with --vision-config."
        )
    image_size = infer_image_size(fields, num_patches, patch_size)
    return SiglipVisionConfig(num_attention_heads=SO400M_HEADS, image_size=image_size, **sizes)


def infer_image_size(fields: dict, num_patches: int, patch_size: int) -> int:
    """The tower's image size in pixels, as its name has it; without a name, that of a whole number of patches."""
    grid_size = round(num_patches**0.5)
    # A view need not be a whole number of patches: so400m's 384 pixels make 27 patches of 14, and 6 pixels are cut.
    named = re.search(r"patch(\d+)-(\d+)$", str(fields.get("mm_vision_tower", "")).rstrip("/"))
    image_size = int(named[2]) if named else grid_size * patch_size
    if grid_size**2 != num_patches or image_size // patch_size != grid_size:
        raise ValueError(
            f"The vision tower has {num_patches} positions, which is not the square of {image_size} // {patch_size} "
            "(image size // patch size). Pass the SigLIP model's config.json with --vision-config."
        )
    return image_size


def num_used_layers(fields: dict, checkpoint: Mapping[str, LazyTensor]) -> int:
    """Layers up to the one whose output is used. Published checkpoints hold no others."""
    depth = num_layers(checkpoint, PUBLISHED_TOWER)
    if is_whole(checkpoint, PUBLISHED_TOWER):
        # the index counts hidden states, of which there is one more than layers
        return depth + 1 + fields.get("mm_vision_select_layer", -2)
    return depth


def without_unused_layers(
    checkpoint: Mapping[str, LazyTensor], vision_config: SiglipVisionConfig
) -> Mapping[str, LazyTensor]:
    """The checkpoint without the tensors that a whole SigLIP has after the layer that is used. Warns if it has any."""
    if not is_whole(checkpoint, PUBLISHED_TOWER):
        return checkpoint
    depth = vision_config.num_hidden_layers
    unused = {name for name in checkpoint if is_unused(name, depth, PUBLISHED_TOWER)}
    logger.warning(
        "The checkpoint holds a whole vision tower, of which only the first %d layers are used. %d tensors are "
        "dropped (such as %s), and --to-original will not bring them back.",
        depth,
        len(unused),
        min(unused),
    )
    return {name: tensor for name, tensor in checkpoint.items() if name not in unused}


def shape_of(tensors: Mapping[str, LazyTensor], name: str, num_dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor that shows a size."""
    if name not in tensors:
        raise ValueError(f"The checkpoint is incomplete, 1 tensor missing that shows its sizes: {name}.")
    shape = tensors[name].shape
    if len(shape) != num_dimensions:
        raise ValueError(f"{name} is wrongly shaped: {list(shape)}, expected are {num_dimensions} dimensions.")
    return shape
