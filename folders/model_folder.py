# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A complete model folder: what it holds, reading one, which is not trusted, and writing one."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, FlashSlothImageProcessor, FlashSlothProcessor
from flashsloth.folders.config_file import check_depth, read_config_file
from flashsloth.folders.errors import config_errors
from flashsloth.folders.tensors import Checkpoint, LazyTensor, write_tensors


# Notes beside a model's files, which no program needs to load it; provenance.json is one too (see provenance.py).
TRAINING_FILE = "training.json"  # the record of its training run
CURVES_FILE = "curves.png"  # a figure of that run's curves
EVALUATION_FILE = "evaluation.json"  # its scores
RUN_RESULT = "model"  # in a training run's OUTPUT_DIR; the run's training.json and curves.png are beside it
MAX_NEW_TOKENS = 256  # of an answer, where the caller names no limit; the library's own default of 20 cuts sentences
# How the names of a tower's layers begin, by the field that holds its config.
TOWER_LAYERS = {
    "text_config": "model.language_model.layers.",
    "vision_config": "model.vision_tower.encoder.layers.",
}
MAX_LISTED = 20  # tensors named per kind of mistake; the rest is counted


def model_on_meta(config: FlashSlothConfig) -> FlashSlothForCausalLM:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return FlashSlothForCausalLM(config)


def expected_shapes(config: FlashSlothConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint with this `config` holds."""
    model = model_on_meta(config)
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


def check_is_flashsloth(folder: Path) -> None:
    """
    Checks what kind of model a folder holds, before anything is built from it.

    Raises:
        ValueError: If it is an adapter, has no config, or is another model than a FlashSloth.
    """
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        raise ValueError(
            f"{folder} is an adapter: merge it first (flashsloth merge {folder} DST), and use the result."
        )
    model_type = read_config_file(folder / CONFIG_NAME).get("model_type")
    if model_type != FlashSlothConfig.model_type:
        raise ValueError(
            f"{folder} is a model of type {model_type!r}, not a FlashSloth. `flashsloth convert` makes one of a "
            "checkpoint in the published layout, `flashsloth compose` of a language model and a SigLIP."
        )


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
    checkpoint = Checkpoint(folder)
    with config_errors(file):
        for tower, layers in TOWER_LAYERS.items():
            check_depth(fields[tower], checkpoint, layers, file)
        config = FlashSlothConfig.from_pretrained(folder)
        shapes = expected_shapes(config)
    check_tensors(checkpoint, shapes, folder, "Save the model again.")
    return config, checkpoint


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
    config.architectures = [FlashSlothForCausalLM.__name__]
    custom_object_save(model_on_meta(config), folder, config=config)
    config.save_pretrained(folder)
    if generation_config is not None:
        generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_tensors(tensors, folder, max_shard_size, metadata)
