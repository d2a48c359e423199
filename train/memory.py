# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What a run takes of each device's memory. The model is on the meta device, so nothing of its size is allocated.

Bytes per device, with `P` parameters of the model, `T` that train, `Q` in 4 bits, `N` devices:

| way           | parameters                     | gradients                 | optimizer states | in main memory      |
| ------------- | ------------------------------ | ------------------------- | ---------------- | ------------------- |
| ddp           | 4 P + autocast copies          | 4 T, and 4 T in buckets   | S                |                     |
| ddp, nf4      | q Q + 2 (P - Q) + dequantized  | 2 T, and 2 T in buckets   | S / 2            |                     |
| fsdp2         | 4 P / N + gathered             | 4 T / N                   | S / N            |                     |
| zero2         | 2 P                            | 2 T / N + buckets         | (S + 4 T) / N    |                     |
| zero3         | 2 P / N + gathered             | 2 T / N + buckets         | (S + 4 T) / N    |                     |
| zero3 offload | gathered                       | buckets                   |                  | (2 P + S + 8 T) / N |

`S` is 8 T for AdamW (two float32 moments), and under Muon 4 bytes per element of a matrix (one). DDP and FSDP2 hold
float32 weights and compute under bfloat16 autocast. It copies what trains, 2 T bytes in all, but with gradient
checkpointing only one layer's at a time: each is computed anew in a context of its own, which lets go of its copies.
DeepSpeed's weights are bfloat16, and their float32 masters stand with the optimizer states. With one device nothing is
gathered and there are no buckets, but with offload: there all weights come from main memory, and all gradients go
there. Otherwise FSDP2 gathers the largest decoder layer or the head, in bfloat16, and fetches another one meanwhile;
ZeRO-3 keeps up to 1e9 gathered parameters, and DeepSpeed reduces gradients in two buckets of 5e8
(`stage3_max_live_parameters`, `reduce_bucket_size` with `overlap_comm`: its defaults).

With offload main memory holds weights, masters, moments and float32 gradients, the 18 bytes per parameter of
`deepspeed.runtime.zero.stage3.estimate_zero3_model_states_mem_needs` where all train; that function adds half of it
for pinned buffers.

In nf4 with quantized scales a weight takes q = 0.5 + 1 / 64 + 4 / (64 * 256) bytes: 4 bits, one byte for each block of
64, and a float32 for each 256 of those (https://huggingface.co/papers/2305.14314, section 3). The rest of the model,
what trains, its gradients and its moments are bfloat16 there (TRL casts them); one matrix at a time is dequantized.
Quantized bases run on one device or under DDP.

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
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AttentionInterface, AutoModel
from transformers.quantizers.quantizers_utils import should_convert_module
from trl import SFTConfig

from flashsloth import FlashSlothConfig
from flashsloth.train.config import StageConfig
from flashsloth.train.lora import not_quantized
from flashsloth.train.optimizers import MuonWithAdamW


NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # of a weight
# Of TRL's fused loss: tokens and vocabulary entries of a tile of logits.
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
    """What of a base is held in 4 bits: weights, and the largest matrix of them. Of no use without quantization."""

    weights: int = 0
    largest: int = 0


def memory_by_way(
    model: nn.Module,
    model_config: FlashSlothConfig,
    stage: StageConfig,
    config: SFTConfig,
    length: int,
    devices: int,
    quantized: Quantized,
) -> dict[str, Memory]:
    """
    The table of the module's docstring.

    Args:
        model (`nn.Module`): On the meta device, with what trains selected, and with its adapter if there is one.
        model_config (`FlashSlothConfig`), stage (`StageConfig`), config (`trl.SFTConfig`): What is planned.
        length (`int`): Tokens of each row.
        devices (`int`): Number of devices.
        quantized ([`Quantized`]): Of the base.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    states = _optimizer_bytes(model, stage.optimizer)
    halved, full = (_activations(model, model_config, stage, config, length, itemsize) for itemsize in (2, 4))
    is_shared = devices > 1
    if stage.quantization:
        parameters = int(NF4_BYTES * quantized.weights) + 2 * (total - quantized.weights + quantized.largest)
        return {"ddp": Memory(parameters, (4 if is_shared else 2) * trainable, states // 2, full)}

    unit = _largest_unit(model)
    gathered = 2 * 2 * unit * is_shared
    copies = 2 * min(unit, trainable) if config.gradient_checkpointing else 2 * trainable
    live = 2 * min(total, MAX_LIVE_PARAMETERS)
    buckets = 2 * min(trainable, REDUCE_BUCKETS)
    shard = 2 * trainable // devices + buckets * is_shared
    masters = (states + 4 * trainable) // devices
    in_main_memory = (2 * total + states + 8 * trainable) // devices
    return {
        "ddp": Memory(4 * total + copies, (8 if is_shared else 4) * trainable, states, full),
        "fsdp2": Memory(4 * total // devices + gathered, 4 * trainable // devices, states // devices, full),
        "zero2": Memory(2 * total, shard, masters, halved),
        "zero3": Memory(2 * total // devices + live * is_shared, shard, masters, halved),
        "zero3 offload": Memory(live, buckets, 0, halved, in_main_memory),
    }


def quantized_weights(model: nn.Module, stage: StageConfig) -> Quantized:
    """What `quantization` holds in 4 bits of a model that has no adapter yet."""
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
    tile = min(TILE[0], rows * length) * TILE[1]
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
