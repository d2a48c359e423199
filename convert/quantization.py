# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Smaller models: the decoder's linear layers in 8 or 4 bits per weight, by torchao (https://github.com/pytorch/ao),
whose tensors transformers loads and saves as safetensors. Everything else keeps its dtype: the vision tower, pooling,
projector, query tokens, Embedded Query module, embeddings and head.

This is for GPUs. torch multiplies such weights slower than floats on a CPU; `flashsloth export` writes a model whose
8 and 4 bits are faster there.

- int8: one scale per row of a weight.
- int4: a scale and a zero point per group of neighbouring weights of a row, in torchao's plain format, which does not
  depend on the machine. Formats made for one kind of device do not load on others, and the one for CPUs cannot be
  saved as safetensors (https://github.com/pytorch/ao/issues/3800). Any machine can write an int4 model, but it needs
  an NVIDIA GPU with mslk (https://github.com/pytorch/MSLK) to run.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torchao.core.config import AOBaseConfig
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import Int4Tensor, Int4WeightOnlyConfig, Int8Tensor, Int8WeightOnlyConfig
from transformers import GenerationConfig, TorchAoConfig
from transformers.utils import GENERATION_CONFIG_NAME

from flashsloth import FlashSlothForCausalLM
from flashsloth.folders.downloads import find_model
from flashsloth.folders.fit import check_generation_config
from flashsloth.folders.model_folder import (
    model_on_meta,
    read_model,
    run_notes,
    write_model_folder,
)
from flashsloth.folders.new_folder import new_folder, quiet_transformers
from flashsloth.folders.provenance import (
    CURVES_FILE,
    EVALUATION_FILE,
    describe_source,
    read_provenance,
    write_provenance,
)
from flashsloth.folders.tensors import NOT_FINITE, LazyTensor, is_finite
from flashsloth.loading import load_processor


logger = logging.getLogger(__name__)

WEIGHTS = ("int8", "int4")
GROUP_SIZES = (128, 64, 32)  # in weights; torchao's, the smallest file first
QUANTIZED_PART = "model.language_model"
BACKBONE_PREFIX = f"{FlashSlothForCausalLM.base_model_prefix}."

SOURCE_FILES = ("*.json", "*.jinja", CURVES_FILE)  # of a FlashSloth on the Hub, beside its weights

INT4_LEVELS = 16
SMALLEST_RANGE = 1e-6  # of a group of equal weights, which must not be divided by zero


def quantize(src, dst, weights: str, *, group_size: int | None = None, max_shard_size: int | str = "5GB") -> Path:
    """
    Writes a complete folder whose decoder is quantized: code, processor, generation config and weights. Weights are
    read, quantized and written one at a time. The record of the run that trained them, training.json, and its curves
    go along; the scores of `src` do not, as they are not those of the quantized weights.

    Args:
        src (`str` or `os.PathLike`): a FlashSloth: a folder, or REPO or REPO@REVISION on the Hub.
        dst (`str` or `os.PathLike`): folder to write; must not exist, or be empty.
        weights (`str`): `"int8"` or `"int4"`.
        group_size (`int`, *optional*): weights that share a scale, with `"int4"`: 128, 64 or 32; by default the
            largest that divides the inputs of every layer.
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`): size limit of one weight file.

    Returns:
        `dst`.

    Raises:
        ValueError: If `src` is no FlashSloth, incomplete or quantized already, or the group size does not divide a
            layer; the message names both numbers. Nothing is left at `dst` then.
        OSError: If the connection to the Hub is lost, or the disk is full. Nothing is left at `dst` then either.

    Example:

    ```python
    >>> from flashsloth.convert.quantization import quantize

    >>> quantize("flashsloth-3.2b", "flashsloth-3.2b-int4", "int4")
    ```
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be {' or '.join(WEIGHTS)}, not {weights!r}.")
    if group_size is not None and weights != "int4":
        raise ValueError(f"A group size belongs to int4; {weights} has one scale per row. Leave it out.")
    dst = Path(dst)
    with new_folder(dst) as folder, quiet_transformers():
        src = find_model(src, SOURCE_FILES)
        config, checkpoint = read_model(src)
        processor = load_processor(src)
        model = model_on_meta(config)
        layers = decoder_layers(model)
        details = {}
        if weights == "int4":
            details["group_size"] = choose_group_size(layers, group_size)
        method = quantization_method(weights, **details)
        quantizer = partial(quantize_weight, method=method)
        tensors, metadata = quantized_tensors(checkpoint, {f"{name}.weight" for name in layers}, quantizer)

        config.quantization_config = TorchAoConfig(method, modules_to_not_convert=kept_modules(model)).to_dict()
        check_generation_config(src, config)
        has_generation_config = (src / GENERATION_CONFIG_NAME).is_file()
        generation_config = GenerationConfig.from_pretrained(src) if has_generation_config else None
        write_model_folder(
            folder, config, tensors, processor, generation_config, max_shard_size=max_shard_size, metadata=metadata
        )
        write_provenance(
            folder,
            "quantize",
            [describe_source("base", src)],
            before=read_provenance(src),
            weights=weights,
            **details,
            torchao=version("torchao"),
        )
        for file in run_notes(src):
            shutil.copyfile(file, folder / file.name)
    if (src / EVALUATION_FILE).is_file():
        logger.warning(
            "%s is not copied: its scores are of the weights before; `flashsloth eval --model %s --write` adds new.",
            EVALUATION_FILE,
            dst,
        )
    if weights == "int4":
        logger.warning(
            "%s has int4 weights: it needs an NVIDIA GPU with mslk to run. For a CPU use flashsloth export.", dst
        )
    return dst


def decoder_layers(model: FlashSlothForCausalLM) -> dict[str, nn.Linear]:
    """The layers to quantize, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{QUANTIZED_PART}.")
    }


def kept_modules(model: FlashSlothForCausalLM) -> list[str]:
    """The modules whose linear layers stay as they are; transformers matches names from their start."""
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    kept = (".".join(name.split(".")[:2]) for name in linear)  # such as model.vision_tower, or lm_head
    return [name for name in dict.fromkeys(kept) if name != QUANTIZED_PART]


def choose_group_size(layers: Mapping[str, nn.Linear], group_size: int | None) -> int:
    """
    The group size that is asked for, or the largest that fits.

    Raises:
        ValueError: If it does not divide the inputs of each layer.
    """
    if group_size is not None and group_size not in GROUP_SIZES:
        raise ValueError(f"group size {group_size} must be one of {', '.join(map(str, GROUP_SIZES))}.")
    for size in GROUP_SIZES if group_size is None else (group_size,):
        unfit = [name for name, layer in layers.items() if layer.in_features % size]
        if not unfit:
            return size
    raise ValueError(
        f"{unfit[0]} has {layers[unfit[0]].in_features} inputs, which the group size {size} does not divide. Choose "
        f"{'another group size or ' if size > GROUP_SIZES[-1] else ''}int8, which has no groups."
    )


def quantization_method(weights: str, group_size: int | None = None) -> AOBaseConfig:
    """torchao's name and settings for a kind of weights."""
    return Int8WeightOnlyConfig() if weights == "int8" else Int4WeightOnlyConfig(group_size=group_size)


def quantize_weight(weight: torch.Tensor, method: AOBaseConfig) -> Int8Tensor | Int4Tensor:
    """
    What torchao's `quantize_` makes of the weight of a linear layer. Its own function for `Int4Tensor` needs mslk, and
    so a GPU; the values here are the same.

    Args:
        weight (`torch.Tensor` of shape `(out, in)`): any float dtype; on the meta device only shapes are computed.
        method (`AOBaseConfig`): see [`quantization_method`].
    """
    if isinstance(method, Int8WeightOnlyConfig):
        return Int8Tensor.from_hp(weight, granularity=method.granularity)
    groups = weight.float().unflatten(1, (-1, method.group_size))
    low, high = groups.amin(-1), groups.amax(-1)  # (out, in / group)
    scale = (high - low).clamp(min=SMALLEST_RANGE) / (INT4_LEVELS - 1)
    zero_point = low + scale * INT4_LEVELS / 2
    values = (groups - zero_point.unsqueeze(-1)) / scale.unsqueeze(-1)
    values = values.round().clamp(-INT4_LEVELS // 2, INT4_LEVELS // 2 - 1).to(torch.int8).flatten(1)
    return Int4Tensor(
        qdata=(values[:, 1::2] << 4) | (values[:, 0::2] & (INT4_LEVELS - 1)),
        scale=scale.t().to(weight.dtype).contiguous(),
        zero_point=zero_point.t().to(weight.dtype).contiguous(),
        block_size=[1, method.group_size],
        shape=weight.shape,
    )


def quantized_tensors(
    checkpoint: Mapping[str, LazyTensor], names: set[str], quantizer: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """
    A checkpoint with some of its weights quantized when they are read, in the form in which torchao puts tensors into
    safetensors: each quantized weight becomes several tensors, and the file's metadata say which.

    Args:
        checkpoint (`Mapping[str, LazyTensor]`): all weights.
        names (`set[str]`): those to quantize.
        quantizer (`Callable`): from a weight to torchao's tensor; must work on the meta device.

    Returns:
        The tensors and the metadata.
    """

    # The parts of a weight that have the same dtype size are written one after the other.
    @lru_cache(maxsize=1)
    def read_parts(name: str) -> dict[str, torch.Tensor]:
        weight = checkpoint[name].read()
        if not is_finite(weight):
            raise ValueError(f"{name} holds numbers that are not finite. {NOT_FINITE}")
        return flatten_tensor_state_dict({name: quantizer(weight)})[0]

    tensors, metadata = {}, {}
    for name, tensor in checkpoint.items():
        if name not in names:
            # Plain tensors need no description, and transformers reads all of it again for every quantized weight.
            tensors[name] = tensor
            continue
        on_meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        parts, described = flatten_tensor_state_dict({name: quantizer(on_meta)})
        # A weight is looked up by its name in the model, and AutoModel loads the backbone alone.
        metadata[name] = metadata[name.removeprefix(BACKBONE_PREFIX)] = described[name]
        for part, value in parts.items():
            read = partial(lambda name, part: read_parts(name)[part], name, part)
            tensors[part] = LazyTensor(tuple(value.shape), value.dtype, read)
    metadata["tensor_names"] = json.dumps(list(metadata))
    return tensors, metadata
