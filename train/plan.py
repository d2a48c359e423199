# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Plans a run before it starts: `flashsloth train CONFIG.yaml --plan --devices 8`. The model is built on the meta device,
so no weights are allocated; `flashsloth.train.memory` has the formulas.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from peft import inject_adapter_in_model
from torch import nn

from flashsloth import FlashSlothConfig
from flashsloth.folders.model_folder import model_on_meta
from flashsloth.train.config import LoraSettings, StageConfig
from flashsloth.train.data.sources import load_data
from flashsloth.train.evaluation import num_held_out
from flashsloth.train.lora import lora_config
from flashsloth.train.memory import Memory, memory_by_strategy, quantized_weights
from flashsloth.train.model import learned_parameters, parameter_groups, read_model_config, select_trainable
from flashsloth.train.optimizers import by_learning_rate


# Gigabytes per GPU that the authors of FlashSloth name for their stages, on eight GPUs of 80 GB (ZeRO).
PUBLISHED_GB = {"stage 1": 12, "stage 2": 47}
ADAMW = ("adamw_torch", "adamw_torch_fused")


@dataclass
class Plan:
    """
    The plan of a run.

    Args:
        parameters (`list[tuple[str, int, int]]`): Each part of the model, its trained parameters, all its parameters.
        trainable (`int`), total (`int`): Sums of these; an adapter's parameters are in both.
        num_devices (`int`), rows_per_device (`int`), accumulation_steps (`int`): The factors of the global batch size.
        global_batch_size (`int`): Rows of a step.
        num_rows (`int`, *optional*): Rows of the data.
        num_steps (`int`, *optional*): Optimizer steps; `None` if neither `max_steps` nor the rows are known.
        sequence_length (`int`): Tokens of the longest sequence that is planned for.
        gradient_checkpointing (`bool`): Whether activations are computed again in the backward pass.
        memory (`dict[str, Memory]`): Memory by strategy.
    """

    parameters: list[tuple[str, int, int]]
    trainable: int
    total: int
    num_devices: int
    rows_per_device: int
    accumulation_steps: int
    global_batch_size: int
    num_rows: int | None
    num_steps: int | None
    sequence_length: int
    gradient_checkpointing: bool
    memory: dict[str, Memory]


def plan(
    stage: StageConfig,
    num_devices: int,
    model_config: FlashSlothConfig | None = None,
    num_rows: int | None = None,
) -> Plan:
    """
    Plans a stage.

    Args:
        stage (`StageConfig`): The stage, as `read_config` returns it for `num_devices`.
        num_devices (`int`): Number of devices, with one process for each.
        model_config (`FlashSlothConfig`, *optional*): The config of the model; the published 3.2 B one if unset.
        num_rows (`int`, *optional*): Rows of the data.

    Raises:
        ValueError: If the states of the optimizer are not known, or modules do not exist.
    """
    if stage.optimizer == "adamw" and stage.optim not in ADAMW:
        raise ValueError(f"--plan knows the states of {' and '.join(ADAMW)}, not of optim: {stage.optim.value}")
    model_config = model_config or FlashSlothConfig()
    model = model_on_meta(model_config)
    select_trainable(model, stage.trainable)
    by_learning_rate(learned_parameters(model, stage), stage.learning_rates)
    parameters = parameter_groups(model)
    quantized = quantized_weights(model, stage)
    if stage.lora:
        parameters = _with_adapter(model, stage.lora)
    length = int(min(stage.max_length or math.inf, model_config.text_config.max_position_embeddings))
    rows_per_device, accumulation_steps = stage.per_device_train_batch_size, stage.gradient_accumulation_steps
    return Plan(
        parameters=parameters,
        trainable=sum(count for _, count, _ in parameters),
        total=sum(count for _, _, count in parameters),
        num_devices=num_devices,
        rows_per_device=rows_per_device,
        accumulation_steps=accumulation_steps,
        global_batch_size=num_devices * rows_per_device * accumulation_steps,
        num_rows=num_rows,
        num_steps=_num_steps(stage, num_devices, num_rows),
        sequence_length=length,
        gradient_checkpointing=stage.gradient_checkpointing,
        memory=memory_by_strategy(model, model_config, stage, length, num_devices, quantized),
    )


def _num_steps(stage: StageConfig, num_devices: int, num_rows: int | None) -> int | None:
    if stage.max_steps > 0:
        return stage.max_steps
    if num_rows is None:
        return None
    rows_at_a_time = stage.per_device_train_batch_size * num_devices
    batches = num_rows // rows_at_a_time if stage.dataloader_drop_last else math.ceil(num_rows / rows_at_a_time)
    return math.ceil(math.ceil(batches / stage.gradient_accumulation_steps) * stage.num_train_epochs)


def _with_adapter(model: nn.Module, settings: LoraSettings) -> list[tuple[str, int, int]]:
    """Puts the adapter on the model, and counts its parameters as a part of their own."""
    parts = {part: count for part, _, count in parameter_groups(model)}
    inject_adapter_in_model(lora_config(settings, model), model)
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return [*((part, 0, count) for part, count in parts.items()), ("adapter", adapter, adapter)]


def report(planned: Plan, name: str) -> str:
    """
    Writes a plan as text.

    Args:
        planned (`Plan`): What [`plan`] returned.
        name (`str`): Name of the model.
    """
    frozen = planned.total - planned.trainable
    steps = "unknown, the data cannot be counted from here" if planned.num_steps is None else f"{planned.num_steps:,}"
    rows = "" if planned.num_rows is None else f" over {planned.num_rows:,} rows"
    published = ", ".join(f"{gigabytes} GB for {stage}" for stage, gigabytes in PUBLISHED_GB.items())
    lines = [
        f"Model: {name}",
        "",
        f"{'part':<30} {'train':>15} {'of':>15}",
        *(f"{part:<30} {trained:>15,} {total:>15,}" for part, trained, total in planned.parameters),
        f"{'all':<30} {planned.trainable:>15,} {planned.total:>15,}   ({frozen:,} frozen)",
        "",
        f"A step: {planned.num_devices} devices x {planned.rows_per_device} rows x {planned.accumulation_steps} "
        f"accumulated = {planned.global_batch_size} rows",
        f"Steps: {steps}{rows}",
        "",
        f"GB per device, for micro batches of {planned.rows_per_device} x {planned.sequence_length} tokens, "
        f"{'with' if planned.gradient_checkpointing else 'without'} gradient checkpointing:",
        f"{'':<13} {'parameters':>12} {'gradients':>12} {'optimizer':>12} {'activations':>12} {'total':>12}"
        f" {'main memory':>12}",
        *(_memory_line(strategy, memory) for strategy, memory in planned.memory.items()),
        "",
        f"Published for the 3.2 B model on 8 GPUs of 80 GB, with ZeRO: {published}.",
        "An estimate for the longest sequences; max_length=N plans for shorter ones. Activations of ddp and fsdp2 are",
        "upper bounds. Not counted: CUDA context, other buffers, fragmentation. Formulas: flashsloth/train/memory.py",
    ]
    return "\n".join(lines)


def _memory_line(strategy: str, memory: Memory) -> str:
    sizes = [memory.parameters, memory.gradients, memory.optimizer, memory.activations, memory.total]
    if memory.in_main_memory:
        sizes.append(memory.in_main_memory)
    return f"{strategy:<13} " + " ".join(f"{_gigabytes(size):>12}" for size in sizes)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.{2 if size >= 1e8 or not size else 4}f}"


def describe(stage: StageConfig, num_devices: int) -> str:
    """
    Plans a stage and returns the plan as text. Model and data are read where they are local folders or files; nothing
    is downloaded. Without a local model the plan is for the published one, and the text says so.

    Raises:
        ValueError: If the folder holds no model that a stage can start from.
    """
    model_config, name = FlashSlothConfig(), f"the published FlashSloth-3.2B ({stage.model} is not here)"
    if Path(stage.model).is_dir():
        model_config, name = read_model_config(Path(stage.model)), stage.model
    num_rows = None
    if all(source.local_files and not source.streaming for source in stage.data):
        num_rows = len(load_data(stage.data, stage.seed))
        if stage.eval_split is not None:
            num_rows -= num_held_out(stage.eval_split, num_rows)
    return report(plan(stage, num_devices, model_config, num_rows), name)
