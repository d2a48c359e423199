# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What a run will cost, before it starts: `flashsloth train CONFIG.yaml --plan --devices 8`. The model is built on the
meta device, so nothing of its size is allocated.

Bytes per device, with `P` parameters of the model, `T` that train, `N` devices:

| way   | parameters                   | gradients                 | optimizer states |
| ----- | ---------------------------- | ------------------------- | ---------------- |
| ddp   | 4 P, and 2 T autocast copies | 4 T, and 4 T in buckets   | S                |
| fsdp2 | 4 P / N + gathered           | 4 T / N                   | S / N            |
| zero2 | 2 P                          | 2 T / N + buckets         | (S + 4 T) / N    |
| zero3 | 2 P / N + gathered           | 2 T / N + buckets         | (S + 4 T) / N    |

`S` is 8 T for AdamW (two float32 moments), and under Muon 4 bytes per element of a matrix (one). DDP and FSDP2 hold
float32 weights and compute under bfloat16 autocast; DeepSpeed's weights are bfloat16, and their float32 masters stand
with the optimizer states. With one device nothing is gathered and there are no buckets. Otherwise FSDP2 gathers the
largest decoder layer or the head, in bfloat16, and fetches another one meanwhile; ZeRO-3 keeps up to 1e9 gathered
parameters, and DeepSpeed reduces gradients in two buckets of 5e8 (`stage3_max_live_parameters`, `reduce_bucket_size`
with `overlap_comm`: its defaults).

Activations are those of the worst micro batch, `B` rows of `L` tokens, at their peak in the backward pass:

    decoder = layers * B * L * width * s + w    with gradient checkpointing: inputs of all layers, inside of one
            = layers * w                        without
    tower   = the same over B * views * patches positions, if it trains; else 0
    pooling = 4 * B * views * patches * vision width * s    patches, regions, hidden layer, dropout
    query   = B * L * views * patches * s       mask and scores of the Embedded Query module
    loss    = a tile of logits, the gradient of B * L * width hidden states, and that of the head's weight, in float32

`w` is what autograd saves inside one layer, measured on the meta device, with attention as SDPA and flash attention do
it (no L x L matrix). `s` is 2 bytes with DeepSpeed. Under autocast it is 4, and so is every element in `w`: an upper
bound, since products of matrices save bfloat16.

Not counted: the CUDA context (about 0.5 GB), other communication buffers, and fragmentation of the allocator.
"""

import glob
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import inject_adapter_in_model
from torch import nn
from transformers import AttentionInterface, AutoModel
from trl import SFTConfig

from flashsloth import FlashSlothConfig
from flashsloth.convert.folders import model_on_meta
from flashsloth.train.config import StageConfig
from flashsloth.train.data import load_data
from flashsloth.train.lora import lora_config
from flashsloth.train.optimizers import MuonWithAdamW
from flashsloth.train.sft import parameter_groups, select_trainable


SHARDINGS = ("ddp", "fsdp2", "zero2", "zero3")
# Gigabytes per 80 GB GPU, of eight, that the authors of FlashSloth name for their stages (ZeRO).
PUBLISHED_GB = {"stage 1": 12, "stage 2": 47}
ADAMW = ("adamw_torch", "adamw_torch_fused")
# Of TRL's fused loss: tokens and vocabulary entries of a tile of logits.
TILE = (4096, 32768)
# DeepSpeed's defaults, in elements.
MAX_LIVE_PARAMETERS = 10**9
REDUCE_BUCKETS = 2 * 5 * 10**8
PROBE_LENGTH = 64  # positions of the layer that is measured
PROBE_ATTENTION = "saves_no_scores"


@dataclass
class Memory:
    """Bytes on one device."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations


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
        ValueError: If the optimizer is none whose states are known, the base is quantized, or modules do not exist.
    """
    if stage.quantization:
        raise ValueError("--plan does not know what a quantized base takes: plan without quantization, which is more")
    if stage.optimizer == "adamw" and config.optim not in ADAMW:
        raise ValueError(f"--plan knows the states of {' and '.join(ADAMW)}, not of optim: {config.optim.value}")
    model_config = model_config or FlashSlothConfig()
    model = model_on_meta(model_config)
    select_trainable(model, stage.trainable)
    groups = parameter_groups(model)
    if stage.lora:
        groups = _with_adapter(model, stage.lora)
    total, trainable = sum(count for _, _, count in groups), sum(count for _, count, _ in groups)

    length = min(config.max_length or math.inf, model_config.text_config.max_position_embeddings)
    states = _optimizer_bytes(model, stage.optimizer)
    unit = _largest_unit(model)
    activations = {
        itemsize: _activations(model, model_config, stage, config, int(length), itemsize) for itemsize in (2, 4)
    }
    accumulation = config.gradient_accumulation_steps
    global_batch_size = config.per_device_train_batch_size * accumulation * world_size
    steps = config.max_steps if config.max_steps > 0 else None
    if steps is None and rows is not None:
        steps = math.ceil(math.ceil(rows / global_batch_size) * config.num_train_epochs)
    return Plan(
        parameters=groups,
        trainable=trainable,
        total=total,
        devices=world_size,
        rows_per_device=config.per_device_train_batch_size,
        accumulation=accumulation,
        global_batch_size=global_batch_size,
        rows=rows,
        steps=steps,
        sequence_length=int(length),
        checkpointing=config.gradient_checkpointing,
        memory={way: _memory(way, total, trainable, states, unit, activations, world_size) for way in SHARDINGS},
    )


def _memory(way: str, total: int, trainable: int, states: int, unit: int, activations: dict, devices: int) -> Memory:
    """The table of the module's docstring."""
    is_shared = devices > 1
    if way == "ddp":
        return Memory(4 * total + 2 * trainable, (8 if is_shared else 4) * trainable, states, activations[4])
    if way == "fsdp2":
        gathered = 2 * 2 * unit * is_shared
        return Memory(4 * total // devices + gathered, 4 * trainable // devices, states // devices, activations[4])
    gradients = 2 * trainable // devices + 2 * min(trainable, REDUCE_BUCKETS) * is_shared
    masters = (states + 4 * trainable) // devices
    if way == "zero2":
        return Memory(2 * total, gradients, masters, activations[2])
    gathered = 2 * min(total, MAX_LIVE_PARAMETERS) * is_shared
    return Memory(2 * total // devices + gathered, gradients, masters, activations[2])


def _with_adapter(model: nn.Module, settings: dict) -> list[tuple[str, int, int]]:
    """Puts the adapter on the model, and counts its parameters as a part of their own."""
    parts = {part: count for part, _, count in parameter_groups(model)}
    inject_adapter_in_model(lora_config(settings, model), model)
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return [*((part, 0, count) for part, count in parts.items()), ("adapter", adapter, adapter)]


def _optimizer_bytes(model: nn.Module, optimizer: str) -> int:
    """Bytes of the float32 moments."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if optimizer != "muon":
        return 8 * sum(parameter.numel() for _, parameter in trained)
    both = MuonWithAdamW(trained, lr=1.0)
    return sum(
        size * parameter.numel()
        for size, half in ((4, both.muon), (8, both.adamw))
        for group in half.param_groups
        for parameter in group["params"]
    )


def _largest_unit(model: nn.Module) -> int:
    """Parameters of the largest piece that sharding gathers at a time."""
    pieces = [*model.model.language_model.layers, *model.model.vision_tower.encoder.layers, model.lm_head]
    return max(sum(parameter.numel() for parameter in piece.parameters()) for piece in pieces)


def _activations(
    model: nn.Module, model_config: FlashSlothConfig, stage: StageConfig, config: SFTConfig, length: int, itemsize: int
) -> int:
    """Bytes at the peak of the backward pass; the module's docstring has the formula."""
    text, vision = model_config.text_config, model_config.vision_config
    rows, dtype = config.per_device_train_batch_size, {2: torch.bfloat16, 4: torch.float32}[itemsize]
    # Views of a row: the published tiles of HD. A row with several images has more, and less text beside them.
    views = 5 if stage.hd else 1

    def stack(layers: int, positions: int, width: int, saved_per_position: int) -> int:
        inside = positions * saved_per_position
        if config.gradient_checkpointing:
            return layers * positions * width * itemsize + inside
        return layers * inside

    tower_trains = any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())
    saved = saved_per_position(text, dtype, stage.attn_implementation, length)
    decoder = stack(text.num_hidden_layers, rows * length, text.hidden_size, saved)
    tower, patches = 0, model_config.num_patches
    if tower_trains:
        saved = saved_per_position(vision, dtype, stage.attn_implementation, patches)
        tower = stack(vision.num_hidden_layers, rows * views * patches, vision.hidden_size, saved)
    pooling = 4 * rows * views * patches * vision.hidden_size * itemsize
    query = rows * length * views * patches * itemsize if model_config.num_query_tokens else 0
    tile = min(TILE[0], rows * length) * min(TILE[1], text.vocab_size)
    loss = 4 * (tile + rows * length * text.hidden_size)
    if model.lm_head.weight.requires_grad:
        loss += 4 * model.lm_head.weight.numel()
    return decoder + tower + pooling + query + loss


def saved_per_position(config, dtype: torch.dtype, attn_implementation: str, length: int) -> int:
    """
    Bytes that autograd saves per position of one layer, inside it.

    Args:
        config (`PreTrainedConfig`): Of a decoder or a SigLIP tower.
        dtype (`torch.dtype`): Of weights and activations.
        attn_implementation (`str`): "eager" saves its matrices over all pairs of positions, all others none.
        length (`int`): Positions of a sequence.
    """
    AttentionInterface.register(PROBE_ATTENTION, _probe_attention)
    is_tower = "image_size" in config.to_dict()
    one, two = (_saved_bytes(config, layers, dtype, is_tower) for layers in (1, 2))
    positions = (config.image_size // config.patch_size) ** 2 if is_tower else PROBE_LENGTH
    saved = -(-(two - one) // positions)
    if attn_implementation == "eager":  # scores, and weights before and after dropout
        saved += config.num_attention_heads * length * (4 + 2 * dtype.itemsize)
    return saved


def _saved_bytes(config, layers: int, dtype: torch.dtype, is_tower: bool) -> int:
    config = type(config)(**{**config.to_dict(), "num_hidden_layers": layers})
    config._attn_implementation = PROBE_ATTENTION
    with torch.device("meta"):
        model = AutoModel.from_config(config).to(dtype).train()
        if is_tower:
            size = config.image_size
            inputs = {"pixel_values": torch.empty(1, 3, size, size, dtype=dtype)}
        else:
            # A finished mask keeps the library from looking at values, of which there are none.
            mask = torch.empty(1, 1, PROBE_LENGTH, PROBE_LENGTH, dtype=dtype)
            embeddings = torch.empty(1, PROBE_LENGTH, config.hidden_size, dtype=dtype, requires_grad=True)
            inputs = {"inputs_embeds": embeddings, "attention_mask": mask, "use_cache": False}
    weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved = {}  # keeps the storages alive, so that no address is used twice

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(**inputs)
    del outputs
    return sum(storage.nbytes() for storage in saved.values())


class _ProbeAttention(torch.autograd.Function):
    """Saves what flash attention saves: its inputs, its output and a float32 per row and head."""

    @staticmethod
    def forward(ctx, query, key, value):
        attended = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, attended, query.new_empty(query.shape[:3], dtype=torch.float32))
        return attended

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("only measures")


def _probe_attention(module, query, key, value, attention_mask, **kwargs):
    return _ProbeAttention.apply(query, key, value).transpose(1, 2).contiguous(), None


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
        f"{'':<8} {'parameters':>12} {'gradients':>12} {'optimizer':>12} {'activations':>12} {'total':>12}",
    ]
    for way, memory in planned.memory.items():
        parts = (memory.parameters, memory.gradients, memory.optimizer, memory.activations, memory.total)
        lines.append(f"{way:<8} " + " ".join(f"{part / 1e9:>12.2f}" for part in parts))
    published = ", ".join(f"{gigabytes} GB for {stage}" for stage, gigabytes in PUBLISHED_GB.items())
    lines += [
        "",
        f"Published for the 3.2 B model on 8 GPUs of 80 GB, with ZeRO: {published}.",
        "An estimate for the longest sequences; max_length=N plans for shorter ones. Activations of ddp and fsdp2 are",
        "upper bounds. Not counted: CUDA context, other buffers, fragmentation. Formulas: flashsloth/train/plan.py",
    ]
    return "\n".join(lines)


def describe(stage: StageConfig, config: SFTConfig, world_size: int) -> str:
    """
    The plan of a stage as text. Its model and data are looked at where they are folders or files; nothing is
    downloaded. Without a model there, the published one is planned for, and the text says so.
    """
    model_config, name = FlashSlothConfig(), f"the published FlashSloth-3.2B ({stage.model} is not here)"
    if (Path(stage.model) / "config.json").is_file():
        model_config, name = FlashSlothConfig.from_pretrained(stage.model), stage.model
    rows = None
    if all(glob.glob(os.path.expanduser(source.path)) and not source.streaming for source in stage.data):
        rows = len(load_data(stage.data, config.seed))
    return report(plan(stage, config, world_size, model_config, rows), name)
