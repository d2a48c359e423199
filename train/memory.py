# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Estimates the memory that a run needs on each device. The model is on the meta device, so no weights are allocated.

Bytes per device, with `P` parameters of the model, `T` trained ones, `Q` in 4 bits, `N` devices:

| strategy      | parameters                     | gradients                 | optimizer states | in main memory      |
| ------------- | ------------------------------ | ------------------------- | ---------------- | ------------------- |
| ddp           | 4 P + autocast copies          | 4 T, and 4 T in buckets   | S                |                     |
| ddp, nf4      | q Q + 2 (P - Q) + dequantized  | 2 T, and 2 T in buckets   | S / 2            |                     |
| fsdp2         | 4 P / N + gathered             | 4 T / N                   | S / N            |                     |
| zero2         | 2 P                            | 2 T / N + buckets         | (S + 4 T) / N    |                     |
| zero3         | 2 P / N + gathered             | 2 T / N + buckets         | (S + 4 T) / N    |                     |
| zero3 offload | gathered                       | buckets                   |                  | (2 P + S + 8 T) / N |

`S` is 8 T for AdamW (two float32 moments), and under Muon 4 bytes per element of a matrix (one moment). DDP and FSDP2
hold float32 weights and compute under bfloat16 autocast. Autocast copies the trained weights, 2 T bytes in all. With
gradient checkpointing it copies one layer at a time: each layer is recomputed in a context of its own, which frees its
copies at its end. DeepSpeed's weights are bfloat16, and their float32 masters are part of the optimizer states. One
device gathers nothing and needs no buckets, except with offload: there all weights come from main memory, and all
gradients go there. On several devices FSDP2 gathers the largest decoder layer or the head, in bfloat16, and fetches
another one meanwhile. ZeRO-3 keeps up to 1e9 gathered parameters, and DeepSpeed reduces gradients in two buckets of
5e8 (`stage3_max_live_parameters`, `reduce_bucket_size` with `overlap_comm`: its defaults).

With offload main memory holds weights, masters, moments and float32 gradients, the 18 bytes per parameter of
`deepspeed.runtime.zero.stage3.estimate_zero3_model_states_mem_needs` where all are trained; that function adds half of
it for pinned buffers.

In nf4 with quantized scales a weight takes q = 0.5 + 1 / 64 + 4 / (64 * 256) bytes: 4 bits, one byte for each block of
64, and a float32 for each 256 of those (https://huggingface.co/papers/2305.14314, section 3). The rest of the model,
the trained parameters, their gradients and their moments are bfloat16 there (TRL casts them); one matrix at a time is
dequantized. Quantized bases run on one device or under DDP.

Activations are those of the largest micro batch, `B` rows of `L` tokens, at their peak in the backward pass:

    decoder = layers * B * L * width * s + w    with gradient checkpointing: inputs of all layers, inside of one
            = layers * w                        without
    tower   = the same over B * views * patches positions, if it is trained; else 0
    pooling = 4 * B * views * patches * vision width * s    patches, regions, hidden layer, dropout
    query   = B * L * views * patches * s       mask and scores of the Embedded Query module
    loss    = a tile of logits, the gradient of B * L * width hidden states, and that of the head's weight, in float32

`w` is what autograd saves inside one layer, measured on the meta device, with attention as SDPA and flash attention
compute it (no L x L matrix). `s` is 2 bytes with DeepSpeed. Under autocast `s` and every element in `w` count 4 bytes:
an upper bound, since products of matrices save bfloat16.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AttentionInterface, AutoModel
from transformers.quantizers.quantizers_utils import should_convert_module

from flashsloth import FlashSlothConfig
from flashsloth.train.config import StageConfig
from flashsloth.train.lora import not_quantized
from flashsloth.train.optimizers import MuonWithAdamW


NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # per weight
# Tokens and vocabulary entries of a tile of logits in TRL's fused loss.
TILE = (4096, 32768)
# DeepSpeed's defaults, in elements.
MAX_LIVE_PARAMETERS = 10**9
REDUCE_BUCKETS = 2 * 5 * 10**8
PROBE_LENGTH = 64  # positions of the layer that is measured
PROBE_ATTENTION = "saves_no_scores"


@dataclass
class Memory:
    """Bytes on one device, and in the main memory of its process."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    in_main_memory: int = 0

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations


@dataclass
class Quantized:
    """Weights of a base that are held in 4 bits: all of them, and those of the largest matrix."""

    weights: int = 0
    largest: int = 0


def memory_by_strategy(
    model: nn.Module,
    model_config: FlashSlothConfig,
    stage: StageConfig,
    sequence_length: int,
    num_devices: int,
    quantized: Quantized,
) -> dict[str, Memory]:
    """
    Computes the table of the module's docstring.

    Args:
        model (`nn.Module`): The model on the meta device, with trainable parameters selected, and with its adapter if
            there is one.
        model_config (`FlashSlothConfig`), stage (`StageConfig`): The model and the stage that are planned.
        sequence_length (`int`): Tokens of each row.
        num_devices (`int`): Number of devices.
        quantized ([`Quantized`]): Weights of the base that are held in 4 bits.

    Returns:
        `dict[str, Memory]`: The memory by strategy.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    states = _optimizer_bytes(model, stage.optimizer)
    halved, full = (_activations(model, model_config, stage, sequence_length, itemsize) for itemsize in (2, 4))
    is_distributed = num_devices > 1
    if stage.quantization:
        parameters = int(NF4_BYTES * quantized.weights) + 2 * (total - quantized.weights + quantized.largest)
        return {"ddp": Memory(parameters, (4 if is_distributed else 2) * trainable, states // 2, full)}

    unit = _largest_unit(model)
    gathered = 2 * 2 * unit * is_distributed
    copies = 2 * min(unit, trainable) if stage.gradient_checkpointing else 2 * trainable
    live = 2 * min(total, MAX_LIVE_PARAMETERS)
    buckets = 2 * min(trainable, REDUCE_BUCKETS)
    gradients = 2 * trainable // num_devices + buckets * is_distributed
    masters = (states + 4 * trainable) // num_devices
    in_main_memory = (2 * total + states + 8 * trainable) // num_devices
    return {
        "ddp": Memory(4 * total + copies, (8 if is_distributed else 4) * trainable, states, full),
        "fsdp2": Memory(
            4 * total // num_devices + gathered, 4 * trainable // num_devices, states // num_devices, full
        ),
        "zero2": Memory(2 * total, gradients, masters, halved),
        "zero3": Memory(2 * total // num_devices + live * is_distributed, gradients, masters, halved),
        "zero3 offload": Memory(live, buckets, 0, halved, in_main_memory),
    }


def quantized_weights(model: nn.Module, stage: StageConfig) -> Quantized:
    """Counts the weights that `quantization` holds in 4 bits, in a model that has no adapter yet."""
    if not stage.quantization:
        return Quantized()
    kept = not_quantized(stage.lora)
    sizes = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and should_convert_module(name, kept)
    ]
    return Quantized(sum(sizes), max(sizes, default=0))


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
    """Parameters of the largest piece that sharding gathers, or autocast copies, at a time."""
    pieces = [*model.model.language_model.layers, *model.model.vision_tower.encoder.layers, model.lm_head]
    return max(sum(parameter.numel() for parameter in piece.parameters()) for piece in pieces)


def _activations(
    model: nn.Module, model_config: FlashSlothConfig, stage: StageConfig, length: int, itemsize: int
) -> int:
    """Bytes at the peak of the backward pass; the module's docstring has the formula."""
    text, vision = model_config.text_config, model_config.vision_config
    rows, dtype = stage.per_device_train_batch_size, {2: torch.bfloat16, 4: torch.float32}[itemsize]
    # Views of a row with one image: the published tiles of HD. Rows with more images have more views and less text.
    views = 5 if stage.hd else 1

    def stack(layers: int, positions: int, width: int, saved_per_position: int) -> int:
        inside = positions * saved_per_position
        if stage.gradient_checkpointing:
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
    tile = min(TILE[0], rows * length) * TILE[1]
    loss = 4 * (tile + rows * length * text.hidden_size)
    if model.lm_head.weight.requires_grad:
        loss += 4 * model.lm_head.weight.numel()
    return decoder + tower + pooling + query + loss


def saved_per_position(config, dtype: torch.dtype, attn_implementation: str, length: int) -> int:
    """
    Measures the bytes that autograd saves inside one layer, per position.

    Args:
        config (`PreTrainedConfig`): The config of a decoder or a SigLIP tower.
        dtype (`torch.dtype`): The dtype of weights and activations.
        attn_implementation (`str`): "eager" saves matrices over all pairs of positions, all others save none.
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
            # With a finished mask the library reads no values, which the meta device does not have.
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
