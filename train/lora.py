# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
LoRA (https://huggingface.co/papers/2106.09685) and QLoRA (https://huggingface.co/papers/2305.14314) on chosen parts of
the model; `merge` makes a complete model folder from an adapter and its base.
"""

import difflib
import re
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from flashsloth.folders.downloads import find_files
from flashsloth.folders.fit import check_processor
from flashsloth.folders.model_folder import RUN_RESULT, run_notes
from flashsloth.folders.new_folder import new_folder, quiet_transformers
from flashsloth.folders.provenance import PROVENANCE_FILE, describe_source, read_provenance, write_provenance
from flashsloth.loading import find_flashsloth, is_quantized, load_config, load_model_and_processor, load_processor
from flashsloth.train.config import LoraSettings
from flashsloth.train.quiet import quiet_libraries
from flashsloth.train.resume import checkpoints


ADAPTER_FILE = "adapter_model.safetensors"
NOT_QUANTIZED = [
    "model.vision_tower",
    "model.pooling",
    "model.multi_modal_projector",
    "model.embedded_query",
    "lm_head",
]


def lora_config(settings: LoraSettings, model: nn.Module) -> LoraConfig:
    """
    Makes PEFT's config of an adapter from a stage's `lora:` settings.

    Args:
        settings (`LoraSettings`): The settings.
        model (`nn.Module`): The model whose linear layers get the adapter. It may be on the meta device.

    Returns:
        `peft.LoraConfig`

    Raises:
        ValueError: If a module does not exist, a part holds no linear layer or is the head, or a module is in both
            lists.
    """
    parts, trained_in_full = settings.parts, settings.modules_to_save
    names = [name for name, _ in model.named_modules() if name]
    for key, modules in (("parts", parts), ("modules_to_save", trained_in_full)):
        for name in modules:
            if name not in names:
                closest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
                raise ValueError(
                    f"lora {key} names {name!r}, but the model has no such module; the closest is {closest!r}"
                )
    patterns = []
    for part in parts:
        for name in trained_in_full:
            if f"{part}.".startswith(f"{name}.") or f"{name}.".startswith(f"{part}."):
                raise ValueError(f"lora trains {name!r} in full and {part!r} by an adapter: leave one of them out")
        if part == "lm_head":
            # The fused loss of TRL multiplies by the head's weight, past an adapter.
            raise ValueError("lora parts names 'lm_head', which cannot take an adapter: put it into modules_to_save")
        module = model.get_submodule(part)
        layers = {name.rpartition(".")[2] for name, child in module.named_modules() if isinstance(child, nn.Linear)}
        if not layers:
            raise ValueError(f"lora parts names {part!r}, which holds no linear layer: put it into modules_to_save")
        below = "" if isinstance(module, nn.Linear) else rf"\.(.*\.)?({'|'.join(sorted(layers))})"
        patterns.append(re.escape(part) + below)
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="|".join(patterns),
        modules_to_save=list(trained_in_full) or None,
        task_type="CAUSAL_LM",
    )


def quantization_config(quantization: str, settings: LoraSettings) -> BitsAndBytesConfig:
    """
    Makes the quantization config of a QLoRA base: the decoder's linear layers are 4-bit NormalFloat with quantized
    scales, everything else is bfloat16, as are all computations.

    Args:
        quantization (`str`): "nf4".
        settings (`LoraSettings`): The stage's `lora:` settings. The modules that they train in full are not quantized.

    Raises:
        ValueError: If bitsandbytes is not installed.
    """
    if not is_bitsandbytes_available():
        raise ValueError(
            f"quantization {quantization!r} needs bitsandbytes: pip install bitsandbytes, or leave it out"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=not_quantized(settings),
    )


def not_quantized(settings: LoraSettings) -> list[str]:
    """The modules of a base that are not quantized, with a stage's `lora:` settings."""
    return [*NOT_QUANTIZED, *settings.modules_to_save]


def merge(adapter: str | Path, dst: str | Path, base: str | None = None) -> None:
    """
    Adds an adapter to the model that it was trained on, and writes a complete folder: weights in the base's dtype,
    config, generation settings, processor and code. The processor is the adapter's own if its folder holds one, and
    the base's otherwise. The record of the adapter's run, training.json, and its curves go along.

    Args:
        adapter (`str` or `Path`): Folder of the adapter, as PEFT and TRL write it.
        dst (`str` or `Path`): Folder to write.
        base (`str`, *optional*): The model that the adapter was trained on; the one that its config names if unset.

    Raises:
        FileNotFoundError: If there is no adapter, or no model where its config says.
        ValueError: If the adapter does not belong to the base, or `dst` is not empty.
    """
    adapter = Path(adapter)
    if not (adapter / ADAPTER_FILE).is_file():
        raise FileNotFoundError(f"No adapter at '{adapter}': {_where_an_adapter_is(adapter)}")
    named = PeftConfig.from_pretrained(adapter).base_model_name_or_path
    if base is None and not named:
        raise ValueError(f"The adapter at '{adapter}' does not say what it was trained on: name it with --base.")
    try:
        folder = find_flashsloth(base or named)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} The adapter was trained on '{named}': name that model with --base."
        ) from error
    if is_quantized(load_config(folder)):
        raise ValueError(
            f"{base or named} is quantized, which would round the adapter away: name the model that it was made from "
            "with --base."
        )
    model, processor = load_model_and_processor(folder)
    if (adapter / "processor_config.json").is_file():
        processor = load_processor(adapter)
        check_processor(processor, model.config, adapter)
    with new_folder(dst) as folder:
        merged = _attach(model, adapter).merge_and_unload(safe_merge=True)
        with quiet_transformers():
            merged.save_pretrained(folder)
            processor.save_pretrained(folder)
        base = find_files(base or named, (PROVENANCE_FILE,))  # of a model on the Hub, the local copy that was loaded
        before = read_provenance(adapter) or read_provenance(base)
        sources = [describe_source("base", base), describe_source("adapter", adapter)]
        write_provenance(folder, "merge", sources, before)
        for file in run_notes(adapter):
            shutil.copyfile(file, folder / file.name)


def _where_an_adapter_is(folder: Path) -> str:
    """What to do about a folder that holds no adapter itself: a run leaves its own in OUTPUT_DIR/model."""
    others = sorted(file.parent for file in folder.glob(f"*/{ADAPTER_FILE}"))
    for inside in (folder / RUN_RESULT, *reversed(checkpoints(folder)), *others):
        if (inside / ADAPTER_FILE).is_file():
            return f"name the folder in it, '{inside}'."
    return f"its folder would hold {ADAPTER_FILE}."


def _attach(model: nn.Module, adapter: Path) -> PeftModel:
    """Puts an adapter on a model. Tensors without a counterpart are refused; PEFT ignores them or only warns."""
    remedy = "It was trained on another model: name that one with --base."
    try:
        with quiet_libraries():
            with_adapter = PeftModel.from_pretrained(model, adapter)
    except RuntimeError as error:  # of load_state_dict: tensors of another shape
        raise ValueError(f"The adapter at '{adapter}' does not fit the model ({error}). {remedy}") from error
    expected = get_peft_model_state_dict(with_adapter, save_embedding_layers=False).keys()
    with safe_open(adapter / ADAPTER_FILE, "pt") as file:
        differing = sorted(expected ^ set(file.keys()))
    if differing:
        raise ValueError(
            f"The adapter at '{adapter}' does not fit the model: {len(differing)} tensors are in only one of them, "
            f"{differing[0]} among them. {remedy}"
        )
    return with_adapter
