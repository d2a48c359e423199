# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The same training loop in one process and in several; test_distributed.py compares them. The loss and the batches are
those of `flashsloth train`, the model is sharded as the shipped accelerate configs shard it:

    torchrun --nproc_per_node 2 tests/support/distributed_worker.py [--lora] MODEL RESULTS {fsdp2,zero2,zero3} ...

RESULTS/KIND becomes a folder with the trained model, or its adapter, and `losses.json`. All kinds are trained in the
same processes, since a launch spends most of its time on imports.
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from samples import assistant, make_image
from torch import distributed as dist
from torch import nn
from trl.trainer.utils import add_fused_lm_head

import flashsloth
from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor, register_auto_classes
from flashsloth.train.collator import Collator
from flashsloth.train.config import LoraSettings
from flashsloth.train.lora import lora_config
from flashsloth.train.sharding import gather_head_before_loss, unsharded_class


WORLD_SIZE = 2
STEPS = 20
LEARNING_RATE = 1e-3
MAX_GRAD_NORM = 1.0
# Without dropout, which would differ from rank to rank. What trains whole is that of lora.yaml.
LORA = LoraSettings(
    r=4,
    dropout=0.0,
    modules_to_save=[
        "model.pooling",
        "model.multi_modal_projector",
        "model.query_tokens",
        "model.embedded_query",
    ],
)


def make_row(seed: int, num_images: int) -> dict:
    """A row of a dataset; lengths differ from row to row, and the answers' too."""
    question = [{"type": "image"}] * num_images + [{"type": "text", "text": "What do you see?"[: 5 + seed % 12]}]
    return {
        "images": [make_image(seed + index) for index in range(num_images)],
        "messages": [{"role": "user", "content": question}, assistant(f"{seed} " * (1 + seed % 5))],
    }


def rows(step: int, rank: int) -> list[dict]:
    """A rank's two rows of a step. On every third step rank 1 has no image at all, while rank 0 always has some."""
    seed = 2 * (WORLD_SIZE * step + rank)
    if rank == 1 and step % 3 == 0:
        return [make_row(seed, 0), make_row(seed + 1, 0)]
    return [make_row(seed, 1), make_row(seed + 1, step % 3)]


def micro_batches(processor: FlashSlothProcessor, rank: int) -> list[dict]:
    """What a rank learns from, step by step."""
    collator = Collator(processor=processor, assistant_only_loss=True)
    return [collator(rows(step, rank)) for step in range(STEPS)]


def count_targets(batch: dict) -> torch.Tensor:
    return (batch["labels"][:, 1:] != -100).sum()


def load(folder: Path, lora: bool = False) -> FlashSlothForCausalLM | PeftModel:
    """
    The model, with an adapter if `lora` is set, and with TRL's loss: `model(..., fused_lm_head=True)` does not call
    the head but multiplies by it.
    """
    model = FlashSlothForCausalLM.from_pretrained(folder).train()
    add_fused_lm_head(model, outputs=("log_probs",))
    gather_head_before_loss(model)
    if not lora:
        return model
    torch.manual_seed(0)  # the same adapter on all ranks
    return get_peft_model(model, lora_config(LORA, model))


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)


def train_alone(folder: Path, lora: bool = False) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and final weights of one process, which accumulates over the micro batches of all ranks."""
    processor = FlashSlothProcessor.from_pretrained(folder)
    model = load(folder, lora)
    optimizer = make_optimizer(model)
    losses = []
    for batches in zip(*(micro_batches(processor, rank) for rank in range(WORLD_SIZE)), strict=True):
        num_targets = sum(count_targets(batch) for batch in batches)
        losses.append(0.0)
        for batch in batches:
            loss = model(**batch, fused_lm_head=True, num_items_in_batch=num_targets).loss
            loss.backward()
            losses[-1] += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
    return losses, get_peft_model_state_dict(model) if lora else model.state_dict()


class FSDP2:
    """`fully_shard` of the modules that accelerate takes under fsdp2.yaml; its `Accelerator` has no FSDP on CPUs."""

    def __init__(self, folder: Path, lora: bool):
        from accelerate.utils import FullyShardedDataParallelPlugin
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        configs = Path(flashsloth.__file__).parent / "train" / "configs" / "accelerate"
        settings = yaml.safe_load((configs / "fsdp2.yaml").read_text())["fsdp_config"]
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=settings["fsdp_version"],
            auto_wrap_policy=settings["fsdp_auto_wrap_policy"],
            reshard_after_forward=settings["fsdp_reshard_after_forward"],
            cpu_ram_efficient_loading=False,
        )
        accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no")
        self.model = self.unwrapped = fsdp2_prepare_model(accelerator, load(folder, lora))
        self.optimizer = make_optimizer(self.model)

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.full_tensor() for name, weight in self.model.state_dict().items()}


class Zero:
    """DeepSpeed. Under ZeRO-3 parameters are partitioned from the moment of loading on, as transformers does it."""

    def __init__(self, folder: Path, lora: bool, stage: int):
        import deepspeed
        from transformers.integrations import HfDeepSpeedConfig

        # Would compile a C++ extension, which only makes CPU collectives faster.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("gloo")
        config = {
            "train_micro_batch_size_per_gpu": 2,
            "gradient_clipping": MAX_GRAD_NORM,
            # By default parameters as small as all of these stay whole on every rank.
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "zero_force_ds_cpu_optimizer": False,
        }
        self.stage = stage
        if stage == 3:
            self.config = HfDeepSpeedConfig(config)  # from_pretrained partitions for as long as this object lives
        self.unwrapped = load(folder, lora)
        optimizer = make_optimizer(self.unwrapped)
        self.model, *_ = deepspeed.initialize(model=self.unwrapped, optimizer=optimizer, config=config)

    def step(self, loss: torch.Tensor) -> None:
        self.model.backward(loss)
        self.model.step()

    def weights(self) -> dict[str, torch.Tensor]:
        return self.model._zero3_consolidated_16bit_state_dict() if self.stage == 3 else self.unwrapped.state_dict()


def train_together(kind: str, folder: Path, result: Path, lora: bool) -> None:
    """Trains with its peers; the first process saves the model and the losses, which are summed over ranks."""
    sharded = FSDP2(folder, lora) if kind == "fsdp2" else Zero(folder, lora, stage=int(kind.removeprefix("zero")))
    losses = []
    for batch in micro_batches(FlashSlothProcessor.from_pretrained(folder), dist.get_rank()):
        num_targets = count_targets(batch)
        dist.all_reduce(num_targets)
        loss = sharded.model(**batch, fused_lm_head=True, num_items_in_batch=num_targets).loss
        sharded.step(loss * WORLD_SIZE)  # gradients are averaged over ranks
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item())
    weights = sharded.weights()  # takes all processes
    if dist.get_rank() == 0:
        with unsharded_class(sharded.unwrapped):
            sharded.unwrapped.save_pretrained(result, state_dict=weights)
        (result / "losses.json").write_text(json.dumps(losses))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("kinds", nargs="+", choices=["fsdp2", "zero2", "zero3"])
    parser.add_argument("--lora", action="store_true")
    args = parser.parse_args()
    register_auto_classes()
    dist.init_process_group("gloo")
    for kind in args.kinds:
        train_together(kind, args.model, args.results / kind, args.lora)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
