# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The model that a stage starts from, and the parameters of it that are trained."""

import difflib
from collections import Counter
from pathlib import Path

from torch import nn

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, loading
from flashsloth.folders.kind import check_is_flashsloth
from flashsloth.folders.model_folder import check_weights
from flashsloth.loading import find_flashsloth, is_quantized, load_config
from flashsloth.train.config import StageConfig
from flashsloth.train.lora import quantization_config
from flashsloth.train.sharding import num_elements


def read_model_config(folder: Path) -> FlashSlothConfig:
    """
    Reads the config of a model that a stage can start from.

    Raises:
        ValueError: If the folder holds no FlashSloth, a quantized one, or weights that are not those of its config.
    """
    check_is_flashsloth(folder)
    config = load_config(folder)
    if is_quantized(config):
        raise ValueError(f"{folder} is quantized and cannot be trained: start from the model that it was made from")
    check_weights(folder, config)
    return config


def load_stage_model(stage: StageConfig) -> FlashSlothForCausalLM:
    """
    Loads the model that a stage starts from: in float32, the dtype that the optimizer works on, or quantized.

    Raises:
        ValueError: If a stage cannot start from it, or its weights are damaged or some of them missing.
        FileNotFoundError: If there is no such model.
    """
    folder = find_flashsloth(stage.model)
    read_model_config(folder)
    options = {"dtype": "float32"}
    if stage.quantization:
        options = {"quantization_config": quantization_config(stage.quantization, stage.lora), "dtype": "bfloat16"}
    model = loading.load_model(folder, attn_implementation=stage.attn_implementation, **options)
    model.name_or_path = stage.model  # what an adapter names as its base: not the Hub cache of this machine
    return model


def select_trainable(model: nn.Module, modules: list[str]) -> None:
    """
    Freezes a model except for the parameters of the named modules.

    Raises:
        ValueError: If the model has no module of such a name.
    """
    model.requires_grad_(False)
    names = [name for name, _ in model.named_modules() if name]
    for name in modules:
        if name not in names:
            closest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            raise ValueError(f"trainable names {name!r}, but the model has no such module; the closest is {closest!r}")
        model.get_submodule(name).requires_grad_(True)


def learned_parameters(model: nn.Module, stage: StageConfig) -> list[tuple[str, nn.Parameter]]:
    """
    Returns the selected parameters by name, or with `lora` those of the modules that an adapter is for. A head that is
    tied to the embeddings has their name.
    """
    parameters = model.named_parameters()
    if stage.trainable:
        return [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    prefixes = tuple(f"{module}." for module in (*stage.lora.parts, *stage.lora.modules_to_save))
    return [(name, parameter) for name, parameter in parameters if name.startswith(prefixes)]


def parameter_groups(model: nn.Module) -> list[tuple[str, int, int]]:
    """Name, number of trainable and of all parameters of each part of the model, such as `model.pooling`."""
    total, trainable = Counter(), Counter()
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # PEFT keeps a copy of each module that is trained in full
            continue
        name = name.removeprefix("base_model.model.")  # PEFT's
        part = ".".join(name.split(".")[: 2 if name.startswith("model.") else 1])
        total[part] += num_elements(parameter)
        trainable[part] += num_elements(parameter) * parameter.requires_grad
    return [(part, trainable[part], count) for part, count in total.items()]
