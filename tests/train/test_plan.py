# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Plans: counts, steps and bytes, compared with the model itself and with the bytes that autograd saves."""

import json
import resource
import weakref

import pytest
import torch
from samples import make_config, make_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel
from trl.trainer import utils

from flashsloth import FlashSlothConfig
from flashsloth.cli import main
from flashsloth.train import memory
from flashsloth.train.config import DataSource, LoraSettings, StageConfig
from flashsloth.train.memory import NF4_BYTES, saved_per_position
from flashsloth.train.plan import describe, plan


STAGE_1 = ["model.pooling", "model.multi_modal_projector"]
STAGE_2 = [*STAGE_1, "model.query_tokens", "model.embedded_query", "model.language_model", "lm_head"]


def stage(trainable=(), **settings):
    return StageConfig(
        **{"model": "m", "data": [DataSource("d")], "output_dir": "out", "use_cpu": True, **settings},
        trainable=list(trainable),
    )


def test_published_model_is_counted_without_being_allocated():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    planned = plan(stage(STAGE_2, per_device_train_batch_size=8), num_devices=8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # kB; the weights are 12.8 GB
    assert planned.total == 3_196_373_985
    assert planned.total - planned.trainable == 397_745_440  # the vision tower
    total, trained = planned.total, planned.trainable
    zero2 = planned.memory["zero2"]
    assert (zero2.parameters, zero2.gradients, zero2.optimizer) == (
        2 * total,
        2 * trained // 8 + 2 * 10**9,
        12 * trained // 8,
    )
    assert planned.memory["ddp"].optimizer == 8 * trained
    offload = planned.memory["zero3 offload"]
    assert (offload.parameters, offload.gradients, offload.optimizer) == (2 * 10**9, 2 * 10**9, 0)
    assert offload.in_main_memory == (2 * total + 16 * trained) // 8
    # More sharding never takes more, and a stage that trains less takes less.
    totals = [planned.memory[strategy].total for strategy in ("ddp", "zero2", "zero3", "zero3 offload")]
    assert totals == sorted(totals, reverse=True)
    first = plan(stage(STAGE_1, per_device_train_batch_size=8), num_devices=8)
    assert all(first.memory[strategy].total < planned.memory[strategy].total for strategy in planned.memory)


def test_counts_are_those_of_the_real_model(model):
    planned = plan(stage(STAGE_1), 1, make_config())
    parts = [model.model.pooling, model.model.multi_modal_projector]
    assert planned.trainable == sum(p.numel() for part in parts for p in part.parameters())
    assert planned.total == sum(p.numel() for p in model.parameters())


def test_adapter_is_counted_as_a_part(model):
    planned = plan(stage(lora=LoraSettings(r=4, modules_to_save=["model.pooling"])), 1, make_config())
    pooling = sum(p.numel() for p in model.model.pooling.parameters())
    # four projections and the first and second layer of the MLP, in each of three layers
    rank = 4 * 3 * (4 * (32 + 32) + 2 * (32 + 64))
    assert planned.parameters[-1] == ("adapter", rank + pooling, rank + pooling)
    assert planned.trainable == rank + pooling
    assert planned.total == sum(p.numel() for p in model.parameters()) + planned.trainable


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


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ({}, 13),
        ({"num_train_epochs": 2.5}, 33),
        ({"max_steps": 5}, 5),
        ({"gradient_accumulation_steps": 2}, 7),
        ({"dataloader_drop_last": True}, 12),
    ],
)
def test_steps(overrides, steps):
    planned = stage(STAGE_1, **{"per_device_train_batch_size": 4, "num_train_epochs": 1, **overrides})
    assert plan(planned, 2, make_config(), num_rows=100).num_steps == steps
    if "max_steps" not in overrides:
        assert plan(planned, 2, make_config()).num_steps is None


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


def test_what_cannot_be_planned():
    with pytest.raises(ValueError, match="not of optim: adafactor"):
        plan(stage(STAGE_1, optim="adafactor"), 1, make_config())


def test_command_prints_the_plan_and_trains_nothing(tmp_path, capsys):
    make_model().save_pretrained(tmp_path / "model")
    turns = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]
    rows = [json.dumps({"id": str(index), "images": [], "messages": turns}) for index in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "stage.yaml").write_text(
        f"model: {tmp_path / 'model'}\ndata: {tmp_path / 'rows.jsonl'}\noutput_dir: {tmp_path / 'out'}\n"
        "trainable: [model.pooling]\nper_device_train_batch_size: 2\nbf16: true\n"
    )
    command = ["train", str(tmp_path / "stage.yaml"), "--plan", "--devices", "2", "num_train_epochs=1"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "Steps: 3 over 10 rows" in output
    assert "2 devices x 2 rows x 1 accumulated = 4 rows" in output
    assert "12 GB for stage 1, 47 GB for stage 2" in output
    assert not (tmp_path / "out").exists()
    assert main([*command, "model=not/here", "data=nor/this.jsonl"]) == 0
    output = capsys.readouterr().out
    assert "published FlashSloth-3.2B (not/here is not here)" in output
    assert "Steps: unknown" in output


def test_plan_for_what_is_no_flashsloth(tmp_path):
    make_model().model.language_model.save_pretrained(tmp_path / "phi")
    with pytest.raises(ValueError, match="is a model of type 'phi', not a FlashSloth"):
        describe(stage(STAGE_1, model=str(tmp_path / "phi")), 1)


def test_devices_without_plan(tmp_path, capsys):
    assert main(["train", str(tmp_path / "stage.yaml"), "--devices", "2"]) == 2
    assert "--devices belongs to --plan" in capsys.readouterr().err


def test_what_a_run_would_refuse_is_refused():
    with pytest.raises(ValueError, match="learning_rates names 'model.poling'.* 'model.pooling'"):
        plan(stage(STAGE_1, learning_rates={"model.poling": 1e-3}), 1, make_config())
