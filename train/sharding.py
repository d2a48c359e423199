# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Parameters that are sharded over processes (FSDP2, ZeRO-3), where the libraries do not suffice."""

import contextlib
from collections.abc import Iterator

from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers.integrations import is_deepspeed_zero3_enabled

from flashsloth import FlashSlothForCausalLM
from flashsloth.train.config import StageConfig


def check_sharding(stage: StageConfig) -> None:
    """
    Checks whether the stage can be trained as it was launched: Muon multiplies whole matrices, and a quantized base
    cannot be split, so neither works where the launch shards the model (by accelerate's environment or the settings).

    Raises:
        ValueError: If the launch shards the model, and the stage has one of these.
    """
    if stage.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        sharding = "DeepSpeed"
    elif stage.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"):
        sharding = "FSDP"
    else:
        return
    remedy = "or run without sharding: on one device, or by torchrun or train/configs/accelerate/ddp.yaml on several"
    if stage.optimizer == "muon":
        raise ValueError(f"optimizer muon does not work on parameters that {sharding} shards: take adamw, {remedy}")
    if stage.quantization:
        raise ValueError(
            f"quantization {stage.quantization} does not work on parameters that {sharding} shards: leave it out, "
            f"{remedy}"
        )


def gather_head_before_loss(model: FlashSlothForCausalLM) -> None:
    """
    Makes FSDP2 gather the language-model head after the forward pass of the backbone.

    TRL's loss does not call the head but multiplies by its weight. FSDP2 gathers a module when it is called, so it has
    not gathered the head. TRL 1.16 calls `full_tensor()` instead, which drops the gradients of the other processes:
    the head would learn from another part of each batch on each process. Without FSDP2 this does nothing. Call it
    before the model is sharded.
    """

    def gather(*_) -> None:
        head = model.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()

    model.base_model.register_forward_hook(gather)


@contextlib.contextmanager
def unsharded_class(model: nn.Module) -> Iterator[None]:
    """
    Gives a model its own class back. FSDP2 turns it into an instance of a class of torch's: a folder saved from it
    would hold torch's code in place of ours, and name it in its config. Give `save_pretrained` the gathered
    `state_dict`.
    """
    sharded_class = type(model)
    if isinstance(model, FSDPModule) and isinstance(model, FlashSlothForCausalLM):
        model.__class__ = FlashSlothForCausalLM
    try:
        yield
    finally:
        model.__class__ = sharded_class


def num_elements(parameter: nn.Parameter) -> int:
    """Number of elements of the whole parameter; under ZeRO-3, `numel` counts an empty placeholder."""
    return parameter.ds_numel if is_deepspeed_zero3_enabled() else parameter.numel()
