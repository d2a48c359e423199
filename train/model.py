# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The model that a stage starts from, and the parameters of it that are trained."""

import difflib
from collections import Counter
from pathlib import Path

from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, register_auto_classes
from flashsloth.loading import is_quantized
from flashsloth.train.config import StageConfig
from flashsloth.train.lora import quantization_config
from flashsloth.train.sharding import num_elements


def read_model_config(model: str) -> FlashSlothConfig:
    """
    Reads the config of a model that a stage can start from.

    Raises:
        ValueError: If there is no model, or if it is an adapter, no FlashSloth, or quantized.
    """
    if (Path(model) / "adapter_config.json").is_file():
        raise ValueError(f"{model} is an adapter: merge it first (flashsloth merge), then start from the result")
    register_auto_classes()
    try:
        model_config = AutoConfig.from_pretrained(model)
    except OSError as error:
        raise ValueError(f"There is no model {model} to start from: {error}") from error
    if model_config.model_type != "flashsloth":
        raise ValueError(
            f"{model} is of the type {model_config.model_type!r}, no FlashSloth: make one of a language model "
            "and a SigLIP (flashsloth compose), or of a published checkpoint (flashsloth convert)"
        )
    if is_quantized(model_config):
        raise ValueError(f"{model} is quantized and cannot be trained: start from the model that it was made from")
    return model_config


def load_model(stage: StageConfig) -> FlashSlothForCausalLM:
    """
    Loads the model that a stage starts from: in float32, the dtype that the optimizer works on, or quantized.

    Raises:
        ValueError: If a stage cannot start from it, or its weights are damaged or some of them missing.
    """
    read_model_config(stage.model)
    settings = {"dtype": "float32"}
    if stage.quantization:
        settings = {"quantization_config": quantization_config(stage.quantization, stage.lora), "dtype": "bfloat16"}
    try:
        model, loaded = FlashSlothForCausalLM.from_pretrained(
            stage.model, attn_implementation=stage.attn_implementation, output_loading_info=True, **settings
        )
    except (OSError, SafetensorError, RuntimeError) as error:  # missing, cut short, of other shapes
        raise ValueError(f"The weights of {stage.model} cannot be loaded: {error}") from error
    except ImportError as error:
        raise ValueError(f"attn_implementation {stage.attn_implementation!r} is not possible here: {error}") from error
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ValueError(
            f"{stage.model} lacks {len(missing)} tensors, {missing[0]} among them: it is no complete model"
        )
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
