# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What a run will cost, before it starts: `flashsloth train CONFIG.yaml --plan --devices 8`. The model is built on the
meta device, so nothing of its size is allocated; `flashsloth.train.memory` has the formulas.
"""

import glob
import math
import os
from dataclasses import dataclass
from pathlib import Path

from peft import inject_adapter_in_model
from torch import nn
from trl import SFTConfig

from flashsloth import FlashSlothConfig
from flashsloth.folders.model_folder import model_on_meta
from flashsloth.train.config import LoraSettings, StageConfig
from flashsloth.train.data.sources import load_data
from flashsloth.train.lora import lora_config
from flashsloth.train.memory import Memory, memory_by_way, quantized_weights
from flashsloth.train.optimizers import by_learning_rate
from flashsloth.train.sft import learned_parameters, parameter_groups, read_model_config, select_trainable


# Gigabytes per 80 GB GPU, of eight, that the authors of FlashSloth name for their stages (ZeRO).
PUBLISHED_GB = {"stage 1": 12, "stage 2": 47}
ADAMW = ("adamw_torch", "adamw_torch_fused")


@dataclass
class Plan:
    """
    What a run will cost.

    Args:
        parameters (`list[tuple[str, int, int]]`): Part of the model, its parameters that train, all of them.
        trainable (`int`), total (`int`): Sums of these; an adapter's parameters are in both.
        devices (`int`), rows_per_device (`int`), accumulation (`int`): Shape of a step.
        global_batch_size (`int`): Rows of a step.
        rows (`int`, *optional*): Rows of the data.
        steps (`int`, *optional*): Optimizer steps; `None` if neither `max_steps` nor the rows are known.
        sequence_length (`int`): Positions of the longest sequence that is planned for.
        checkpointing (`bool`): Whether activations are computed again in the backward pass.
        memory (`dict[str, Memory]`): By way of sharding.
    """

    parameters: list[tuple[str, int, int]]
    trainable: int
    total: int
    devices: int
    rows_per_device: int
    accumulation: int
    global_batch_size: int
    rows: int | None
    steps: int | None
    sequence_length: int
    checkpointing: bool
    memory: dict[str, Memory]


def plan(
    stage: StageConfig,
    config: SFTConfig,
    world_size: int,
    model_config: FlashSlothConfig | None = None,
    rows: int | None = None,
) -> Plan:
    """
    Works out what a stage costs.

    Args:
        stage (`StageConfig`), config (`trl.SFTConfig`): The stage, as `read_config` returns it for `world_size`.
        world_size (`int`): Number of devices.
        model_config (`FlashSlothConfig`, *optional*): The model; the published 3.2 B one if unset.
        rows (`int`, *optional*): Rows of the data.

    Raises:
        ValueError: If the optimizer is none whose states are known, or modules do not exist.
    """
    if stage.optimizer == "adamw" and config.optim not in ADAMW:
        raise ValueError(f"--plan knows the states of {' and '.join(ADAMW)}, not of optim: {config.optim.value}")
    model_config = model_config or FlashSlothConfig()
    model = model_on_meta(model_config)
    select_trainable(model, stage.trainable)
    by_learning_rate(learned_parameters(model, stage), stage.learning_rates)
    groups = parameter_groups(model)
    quantized = quantized_weights(model, stage)
    if stage.lora:
        groups = _with_adapter(model, stage.lora)
    total, trainable = sum(count for _, _, count in groups), sum(count for _, count, _ in groups)

    length = int(min(config.max_length or math.inf, model_config.text_config.max_position_embeddings))
    accumulation = config.gradient_accumulation_steps
    rows_at_a_time = config.per_device_train_batch_size * world_size
    steps = config.max_steps if config.max_steps > 0 else None
    if steps is None and rows is not None:
        batches = rows // rows_at_a_time if config.dataloader_drop_last else math.ceil(rows / rows_at_a_time)
        steps = math.ceil(math.ceil(batches / accumulation) * config.num_train_epochs)
    return Plan(
        parameters=groups,
        trainable=trainable,
        total=total,
        devices=world_size,
        rows_per_device=config.per_device_train_batch_size,
        accumulation=accumulation,
        global_batch_size=rows_at_a_time * accumulation,
        rows=rows,
        steps=steps,
        sequence_length=length,
        checkpointing=config.gradient_checkpointing,
        memory=memory_by_way(model, model_config, stage, config, length, world_size, quantized),
    )


def _with_adapter(model: nn.Module, settings: LoraSettings) -> list[tuple[str, int, int]]:
    """Puts the adapter on the model, and counts its parameters as a part of their own."""
    parts = {part: count for part, _, count in parameter_groups(model)}
    inject_adapter_in_model(lora_config(settings, model), model)
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return [*((part, 0, count) for part, count in parts.items()), ("adapter", adapter, adapter)]


def report(planned: Plan, name: str) -> str:
    """
    The plan as text.

    Args:
        planned (`Plan`): What [`plan`] returned.
        name (`str`): Of the model.
    """
    lines = [f"Model: {name}", "", f"{'part':<30} {'train':>15} {'of':>15}"]
    lines += [f"{part:<30} {count:>15,} {total:>15,}" for part, count, total in planned.parameters]
    frozen = planned.total - planned.trainable
    lines += [f"{'all':<30} {planned.trainable:>15,} {planned.total:>15,}   ({frozen:,} frozen)", ""]
    lines += [
        f"A step: {planned.devices} devices x {planned.rows_per_device} rows x {planned.accumulation} accumulated = "
        f"{planned.global_batch_size} rows",
        f"Steps: {'unknown, the data cannot be counted from here' if planned.steps is None else f'{planned.steps:,}'}"
        + ("" if planned.rows is None else f" over {planned.rows:,} rows"),
        "",
        f"GB per device, for micro batches of {planned.rows_per_device} x {planned.sequence_length} tokens, "
        f"{'with' if planned.checkpointing else 'without'} gradient checkpointing:",
        f"{'':<13} {'parameters':>12} {'gradients':>12} {'optimizer':>12} {'activations':>12} {'total':>12}"
        f" {'main memory':>12}",
    ]
    for way, memory in planned.memory.items():
        parts = (memory.parameters, memory.gradients, memory.optimizer, memory.activations, memory.total)
        columns = [*map(_gigabytes, parts)]
        if memory.in_main_memory:
            columns.append(_gigabytes(memory.in_main_memory))
        lines.append(f"{way:<13} " + " ".join(f"{column:>12}" for column in columns))
    published = ", ".join(f"{gigabytes} GB for {stage}" for stage, gigabytes in PUBLISHED_GB.items())
    lines += [
        "",
        f"Published for the 3.2 B model on 8 GPUs of 80 GB, with ZeRO: {published}.",
        "An estimate for the longest sequences; max_length=N plans for shorter ones. Activations of ddp and fsdp2 are",
        "upper bounds. Not counted: CUDA context, other buffers, fragmentation. Formulas: flashsloth/train/memory.py",
    ]
    return "\n".join(lines)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.{2 if size >= 1e8 or not size else 4}f}"


def describe(stage: StageConfig, config: SFTConfig, world_size: int) -> str:
    """
    The plan of a stage as text. Its model and data are looked at where they are folders or files; nothing is
    downloaded. Without a model there, the published one is planned for, and the text says so.

    Raises:
        ValueError: If the folder holds no model that a stage can start from.
    """
    model_config, name = FlashSlothConfig(), f"the published FlashSloth-3.2B ({stage.model} is not here)"
    if Path(stage.model).is_dir():
        model_config, name = read_model_config(stage.model), stage.model
    rows = None
    if all(glob.glob(os.path.expanduser(source.path)) and not source.streaming for source in stage.data):
        rows = len(load_data(stage.data, config.seed))
    return report(plan(stage, config, world_size, model_config, rows), name)
