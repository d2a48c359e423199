# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A complete model folder: what it holds, reading one, which is not trusted, and writing one."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import CONFIG_NAME

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, FlashSlothImageProcessor, FlashSlothProcessor
from flashsloth.folders.config_file import check_depth, read_config_file
from flashsloth.folders.errors import config_errors
from flashsloth.folders.exported import is_exported, read_export
from flashsloth.folders.kind import RUN_RESULT, check_is_flashsloth
from flashsloth.folders.provenance import CURVES_FILE, TRAINING_FILE
from flashsloth.folders.tensors import Checkpoint, LazyTensor, write_tensors


MAX_NEW_TOKENS = 256  # of an answer, where the caller names no limit; the library's own default of 20 cuts sentences
# How the names of a tower's layers begin, by the field that holds its config.
TOWER_LAYERS = {
    "text_config": "model.language_model.layers.",
    "vision_config": "model.vision_tower.encoder.layers.",
}
MAX_LISTED = 5  # tensors named per kind of mistake; the rest is counted


REMEDY = "Download the model again, or save it again."


def model_on_meta(config: FlashSlothConfig) -> FlashSlothForCausalLM:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return FlashSlothForCausalLM(config)


def expected_shapes(config: FlashSlothConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint with this `config` holds."""
    return _shapes_of(model_on_meta(config))


def _shapes_of(model: FlashSlothForCausalLM) -> dict[str, tuple[int, ...]]:
    tied = model.all_tied_weights_keys
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def main_dtype(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """The floating-point dtype of most of a checkpoint's bytes."""
    num_bytes = Counter()
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            num_bytes[tensor.dtype] += tensor.num_bytes
    return num_bytes.most_common(1)[0][0]


def check_tensors(
    found: Mapping[str, LazyTensor], expected: Mapping[str, tuple[int, ...]], where, remedy: str
) -> None:
    """
    Compares a checkpoint with what its config asks for, both ways.

    Args:
        found (`Mapping[str, LazyTensor]`): the tensors that are there.
        expected (`Mapping[str, tuple[int, ...]]`): the shapes that have to be.
        where: the folder, for the message.
        remedy (`str`): what to do, for the message.

    Raises:
        ValueError: If tensors are missing, unexpected, or have another shape; each is listed.
    """
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "wrongly shaped": [
            f"{name}: {list(found[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name].shape != tuple(shape)
        ],
    }
    lines = []
    for kind, names in problems.items():
        if names:
            more = f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
            lines.append(f"{len(names)} {kind}: {', '.join(names[:MAX_LISTED])}{more}")
    if lines:
        raise ValueError(f"The tensors of {where} do not fit its config ({'; '.join(lines)}). {remedy}")


def run_notes(folder: Path) -> list[Path]:
    """The record and the curves of the run that made a model or an adapter: in its folder, else beside it."""
    folder = folder.resolve()
    places = [folder, folder.parent] if folder.name == RUN_RESULT else [folder]
    files = [[place / name for place in places] for name in (TRAINING_FILE, CURVES_FILE)]
    return [found[0] for choices in files if (found := [file for file in choices if file.is_file()])]


def read_model(folder: Path) -> tuple[FlashSlothConfig, Checkpoint]:
    """
    The config and the weights of a FlashSloth. Neither is trusted: the config has to have bounded sizes, and the
    tensors have to be those of the config. Only the headers of the weights are read.

    Raises:
        ValueError: If it is no FlashSloth, incomplete, damaged or quantized.
    """
    check_is_flashsloth(folder)
    file = folder / CONFIG_NAME
    fields = read_config_file(file)
    if "quantization_config" in fields:
        raise ValueError(f"{folder} is quantized already. Name the model that it was made from.")
    with config_errors(file):
        config = FlashSlothConfig.from_pretrained(folder)
    return config, check_weights(folder, config)


def check_weights(folder: Path, config: FlashSlothConfig) -> Checkpoint:
    """
    Compares the weights of a folder with its config, both ways. Only their headers are read, so that a config of
    absurd sizes costs neither time nor memory. Of quantized weights, the place and the size are compared.

    Raises:
        ValueError: If the weights are incomplete, damaged or not those of the config.
    """
    file = folder / CONFIG_NAME
    if read_config_file(file).get("transformers_weights") is not None:
        raise ValueError(f"{file} names a file of weights (transformers_weights). Remove that field from it.")
    if is_exported(folder):
        read_export(folder)  # says so if Python runs it by no means
        raise ValueError(
            f"{folder} is an exported model, which onnxruntime alone runs: ask, chat, serve, eval and answer take it "
            "with --backend onnxruntime, demo with --static, flashsloth.load with backend='onnxruntime'. For anything "
            "else name the model that it was made from."
        )
    checkpoint = Checkpoint(folder)
    with config_errors(file):
        for tower, layers in TOWER_LAYERS.items():
            depth = {"num_hidden_layers": vars(config)[tower].num_hidden_layers}
            check_depth(depth, checkpoint, layers, file)
        model = model_on_meta(config)
        expected = _shapes_of(model)
    if "quantization_config" in config.to_dict():
        found, expected = _without_quantized(checkpoint, expected, model)
    else:
        found = checkpoint
    check_tensors(found, expected, folder, REMEDY)
    return checkpoint


def _without_quantized(
    checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]], model: FlashSlothForCausalLM
) -> tuple[dict[str, LazyTensor], dict[str, tuple[int, ...]]]:
    """
    The tensors of a quantized checkpoint that are not quantized, and the shapes that these must have. A quantized
    weight is stored as several tensors, whose names and shapes depend on the method; together they hold at least one
    bit for each of its elements.
    """
    found, expected = dict(checkpoint), dict(expected)
    parts = defaultdict(list)
    for name in checkpoint:
        if name not in expected:
            parts[name.rpartition(".")[0]].append(name)
    for module_name, module in model.named_modules():
        weight = f"{module_name}.weight"
        if not isinstance(module, nn.Linear) or weight in found or not parts[module_name]:
            continue
        num_bits = sum(8 * found.pop(name).num_bytes for name in parts[module_name])
        if num_bits >= math.prod(expected[weight]):
            del expected[weight]
    return found, expected


def new_processor(config: FlashSlothConfig, tokenizer, hd: bool = False) -> FlashSlothProcessor:
    """
    The processor that belongs to a model.

    Args:
        config (`FlashSlothConfig`): the model's.
        tokenizer (`PreTrainedTokenizerBase`): with the special tokens that `config` names.
        hd (`bool`, *optional*, defaults to `False`): whether images are processed in high definition by default.
    """
    image_size = config.vision_config.image_size
    return FlashSlothProcessor(
        image_processor=FlashSlothImageProcessor(size={"height": image_size, "width": image_size}, hd=hd),
        tokenizer=tokenizer,
        num_visual_tokens=config.num_visual_tokens,
        num_query_tokens=config.num_query_tokens,
    )


def new_generation_config(config: FlashSlothConfig) -> GenerationConfig:
    """How a new model answers: greedily, and never with a placeholder."""
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        suppress_tokens=config.placeholder_token_ids,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )


def write_model_folder(
    folder: Path,
    config: FlashSlothConfig,
    tensors: Mapping[str, LazyTensor],
    processor: FlashSlothProcessor,
    generation_config: GenerationConfig | None,
    *,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """
    Writes what `save_pretrained` of model and processor would, without building the model: config, code, generation
    config, processor with tokenizer and chat template, and weights.

    Args:
        folder (`Path`): an existing, empty folder; see [`~flashsloth.folders.new_folder.new_folder`].
        config (`FlashSlothConfig`): the architecture, with the dtype of the weights.
        tensors (`Mapping[str, LazyTensor]`): all weights, by our names.
        processor (`FlashSlothProcessor`): see [`new_processor`].
        generation_config (`GenerationConfig`, *optional*): see [`new_generation_config`].
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`), metadata (`Mapping[str, str]`, *optional*):
            see [`write_tensors`].
    """
    write_model_parts(folder, config, processor, generation_config)
    write_tensors(tensors, folder, max_shard_size, metadata)


def write_model_parts(
    folder: Path,
    config: FlashSlothConfig,
    processor: FlashSlothProcessor,
    generation_config: GenerationConfig | None,
) -> None:
    """Writes all of a model folder but the weights; the arguments are those of [`write_model_folder`]."""
    config.architectures = [FlashSlothForCausalLM.__name__]
    custom_object_save(model_on_meta(config), folder, config=config)
    config.save_pretrained(folder)
    if generation_config is not None:
        generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
