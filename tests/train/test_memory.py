# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Estimates of memory, compared with the bytes that autograd saves and with those of the libraries."""

import weakref

import pytest
import torch
from samples import make_config, make_model
from stages import STAGE_1, STAGE_2, stage
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel
from trl.trainer import utils

from flashsloth import FlashSlothConfig
from flashsloth.train import memory
from flashsloth.train.config import LoraSettings
from flashsloth.train.memory import NF4_BYTES, saved_per_position
from flashsloth.train.plan import plan


def test_offload_keeps_in_main_memory_what_deepspeed_estimates():
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3", reason="the dev extra installs it on Linux")
    every = [*STAGE_2, "model.vision_tower"]
    planned = plan(stage(every), num_devices=8)
    estimated, _, _ = stage3.estimate_zero3_model_states_mem_needs(
        planned.total, 0, num_gpus_per_node=8, additional_buffer_factor=1
    )
    assert 8 * planned.memory["zero3 offload"].in_main_memory == pytest.approx(estimated)


def test_quantized_base_takes_about_half_a_byte_of_each_weight():
    """Counted on the published model: only the linear layers of the decoder are in 4 bits."""
    lora = LoraSettings(modules_to_save=["model.pooling"])
    planned = plan(stage(lora=lora, quantization="nf4", per_device_train_batch_size=4), 1)
    [(strategy, memory)] = planned.memory.items()
    text = FlashSlothConfig().text_config
    layer = 4 * text.hidden_size**2 + 2 * text.hidden_size * text.intermediate_size
    weights = text.num_hidden_layers * layer
    largest = text.hidden_size * text.intermediate_size
    assert strategy == "ddp"
    assert memory.parameters == pytest.approx(
        (4 + 8 / 64 + 32 / (64 * 256)) / 8 * weights + 2 * (planned.total - weights + largest)
    )
    assert (memory.gradients, memory.optimizer) == (2 * planned.trainable, 4 * planned.trainable)
    assert memory.total < 0.5 * plan(stage(lora=lora, per_device_train_batch_size=4), 1).memory["ddp"].total


def test_bytes_of_nf4_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional", reason="the dev extra installs it on Linux")
    packed, state = functional.quantize_4bit(torch.randn(1024, 1024), quant_type="nf4", compress_statistics=True)
    scales = state.absmax.nbytes + state.state2.absmax.nbytes
    assert (packed.nbytes + scales) / 1024**2 == pytest.approx(NF4_BYTES)


def test_muon_keeps_one_moment_of_matrices():
    adamw = plan(stage(STAGE_2), 1, make_config()).memory["ddp"].optimizer
    muon = plan(stage(STAGE_2, optimizer="muon"), 1, make_config()).memory["ddp"].optimizer
    assert adamw / 2 < muon < adamw


def test_activations_follow_rows_tokens_checkpointing_and_the_tower():
    def activations(trainable=STAGE_2, **settings):
        planned = stage(trainable, **{"per_device_train_batch_size": 4, "max_length": 1024, **settings})
        return plan(planned, 1).memory["zero2"].activations

    usual = activations()
    loss_tile = 4096 * 32768 * 4 + 4 * 51200 * 2560  # does not grow with the rows
    assert activations(per_device_train_batch_size=8) - loss_tile == pytest.approx(2 * (usual - loss_tile))
    assert activations(max_length=512) < 0.8 * usual
    assert activations(gradient_checkpointing=False) > 5 * usual
    assert activations([*STAGE_2, "model.vision_tower"]) > usual


class PeakMemory(TorchDispatchMode):
    """Bytes of all tensors that are alive at a time, the given ones included."""

    def __init__(self, tensors):
        super().__init__()
        self.now = self.peak = 0
        self.alive = {}
        for tensor in tensors:
            self.count(tensor)

    def count(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def gone(_):
            del self.alive[key]
            self.now -= size

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        torch.utils._pytree.tree_map_only(torch.Tensor, self.count, output)
        return output


def _make_optimizer_states(optimizer):
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    ("trainable", "views"), [(STAGE_1, 1), (STAGE_2, 1), ([*STAGE_2, "model.vision_tower"], 5)], ids=["1", "2", "hd"]
)
def test_a_step_takes_what_was_planned(monkeypatch, trainable, views):
    # TRL's tile of logits would be larger than all else at this size.
    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 64)
    monkeypatch.setattr(memory, "TILE", (memory.TILE[0], 64))
    config = make_config(
        text_config={"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 8},
        vision_config={"hidden_size": 72, "intermediate_size": 288, "num_hidden_layers": 6, "image_size": 72},
        query_hidden_size=36,
        query_num_heads=4,  # as published, of a width that fused kernels do not take
    )
    rows, length = 2, 300
    tokens = views * config.num_visual_tokens
    input_ids = torch.full((rows, length), ord("a"))
    input_ids[:, 10 : 10 + tokens] = config.image_token_id
    input_ids[:, -20 : -20 + config.num_query_tokens] = torch.tensor(config.query_token_ids)
    batch = {
        "input_ids": input_ids,
        "pixel_values": torch.zeros(rows * views, 3, 72, 72),
        "view_mask": torch.ones(rows, views, dtype=torch.long),
        "labels": input_ids,
    }
    model = make_model(config).train()
    utils.add_fused_lm_head(model, outputs=("log_probs",))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(trainable)))
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    live = PeakMemory([*model.parameters(), *model.buffers(), *batch.values()])
    with live:
        _make_optimizer_states(optimizer)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch, fused_lm_head=True, num_items_in_batch=torch.tensor(rows * length)).loss
        loss.backward()
        optimizer.step()

    settings = {"per_device_train_batch_size": rows, "gradient_checkpointing": True, "max_length": length}
    planned = plan(stage(trainable, hd=views > 1, **settings), 1, config).memory["ddp"].total
    assert live.peak < planned < 1.5 * live.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_layer_are_what_autograd_saves(dtype):
    config = make_config(text_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 6}).text_config
    config._attn_implementation = "sdpa"
    decoder = AutoModel.from_config(config).to(dtype).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*decoder.parameters(), *decoder.buffers())}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    length = 128
    embeddings = torch.randn(1, length, 64, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = decoder(inputs_embeds=embeddings, use_cache=False)
    measured = sum(storage.nbytes() for storage in saved.values())
    del outputs
    assert 6 * length * saved_per_position(config, dtype, "sdpa", length) == pytest.approx(measured, rel=0.1)


def test_eager_attention_counts_its_matrices():
    config = make_config().text_config
    assert saved_per_position(config, torch.float32, "eager", 512) > saved_per_position(
        config, torch.float32, "sdpa", 512
    )
