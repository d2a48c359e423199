# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What parameters sharded over processes (FSDP2, ZeRO-3) need beside what the libraries do."""

import contextlib
from collections.abc import Iterator

from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTConfig

from flashsloth import FlashSlothForCausalLM
from flashsloth.train.config import StageConfig


def refuse_unsharded_only(stage: StageConfig, config: SFTConfig) -> None:
    """
    Raises:
        ValueError: If the launch shards the model, by accelerate's environment or by the settings, and the stage has
            what works on whole parameters only: Muon, whose steps are products of whole matrices, or a quantized base.
    """
    if config.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        sharding = "DeepSpeed"
    elif config.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"):
        sharding = "FSDP"
    else:
        return
    remedy = "or run without sharding: on one device, or by torchrun or train/configs/accelerate/ddp.yaml on several"
    if stage.optimizer == "muon":
        raise ValueError(f"optimizer muon does not work on what {sharding} shards: take adamw, {remedy}")
    if stage.quantization:
        raise ValueError(
            f"quantization {stage.quantization} does not work on what {sharding} shards: leave it out, {remedy}"
        )


def gather_head_before_loss(model: FlashSlothForCausalLM) -> None:
    """
    Makes FSDP2 gather the language-model head when the backbone is through.

    TRL's loss does not call the head but multiplies by its weight. FSDP2, which acts when a module is called, has then
    not gathered it, and the `full_tensor()` that TRL 1.16 takes instead drops what the other processes add to its
    gradient: the head would learn from a part of each batch, another one on each process. Without FSDP2 this does
    nothing. Call it before the model is sharded.
    """

    def gather(*_) -> None:
        head = model.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()

    model.base_model.register_forward_hook(gather)


@contextlib.contextmanager
def unsharded_class(model: nn.Module) -> Iterator[None]:
    """
    FSDP2 turns a model into an instance of a class of torch's. Saved as such, a folder would hold torch's code in
    place of ours, and name it in its config; within this context the model is of its own class. Give
    `save_pretrained` the gathered `state_dict`.
    """
    sharded_class = type(model)
    if isinstance(model, FSDPModule) and isinstance(model, FlashSlothForCausalLM):
        model.__class__ = FlashSlothForCausalLM
    try:
        yield
    finally:
        model.__class__ = sharded_class


def num_elements(parameter: nn.Parameter) -> int:
    """Size of the whole parameter; under ZeRO-3, `numel` is that of the empty tensor which stands for it."""
    return parameter.ds_numel if is_deepspeed_zero3_enabled() else parameter.numel()
