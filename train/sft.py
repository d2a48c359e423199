# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Trains a stage of FlashSloth on TRL's SFTTrainer. Stages differ by their YAML file only:

    python -m flashsloth.train.sft train/configs/tiny_stage2.yaml learning_rate=5e-4

The file holds the fields of `StageConfig` and of `trl.SFTConfig`. A run that was stopped goes on from its last
checkpoint; the finished model, with processor and code, is `OUTPUT_DIR/model`.
"""

import argparse
import dataclasses
import difflib
import logging
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml
from datasets import load_from_disk
from torch import nn
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor, register_auto_classes
from flashsloth.convert.folders import new_folder
from flashsloth.train.optimizers import MuonWithAdamW


logger = logging.getLogger(__name__)

OPTIMIZERS = ("adamw", "muon")


@dataclass
class StageConfig:
    """
    What a stage is, beside TRL's settings.

    Args:
        model (`str`): Folder of the model that the stage starts from.
        dataset (`str`): Folder of a `datasets` set, saved to disk, with the columns `images` and `messages`.
        trainable (`list[str]`): Modules of the model that train, by name; all others stay as they are.
        hd (`bool`, *optional*, defaults to `False`): Whether images are seen in high definition.
        optimizer (`str`, *optional*, defaults to `"adamw"`): "adamw" (TRL's settings) or "muon" ([`MuonWithAdamW`]).
        attn_implementation (`str`, *optional*, defaults to `"sdpa"`): "eager" is the fastest on a CPU at tiny sizes.
    """

    model: str
    dataset: str
    trainable: list[str]
    hd: bool = False
    optimizer: str = "adamw"
    attn_implementation: str = "sdpa"

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")


def read_config(path: Path, overrides: list[str]) -> tuple[StageConfig, SFTConfig]:
    """
    Reads a stage's YAML file.

    Args:
        path (`Path`): The file.
        overrides (`list[str]`): `key=value` pairs that replace its values.

    Raises:
        ValueError: If a key is unknown (the message names the closest one) or missing, or an override is no pair.
    """
    settings = yaml.safe_load(path.read_text())
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"{override!r} is no override: write key=value")
        settings[key] = yaml.safe_load(value)
    stage_fields = {field.name: field for field in dataclasses.fields(StageConfig)}
    known = [*stage_fields, *(field.name for field in dataclasses.fields(SFTConfig) if field.init)]
    for key in settings:
        if key not in known:
            closest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise ValueError(f"{path} has the unknown key {key!r}; the closest known one is {closest!r}")
    required = [name for name, field in stage_fields.items() if field.default is dataclasses.MISSING]
    for key in (*required, "output_dir"):
        if key not in settings:
            raise ValueError(f"{path} lacks the key {key!r}")
    stage = StageConfig(**{key: value for key, value in settings.items() if key in stage_fields})
    # Truncation could cut the tokens of an image; only answers and their </s> are learned.
    fixed = {"max_length": None, "assistant_only_loss": True}
    return stage, SFTConfig(**{key: value for key, value in settings.items() if key not in stage_fields}, **fixed)


def select_trainable(model: nn.Module, modules: list[str]) -> None:
    """
    Lets exactly the parameters of the named modules train.

    Raises:
        ValueError: If the model has no module of such a name.
    """
    model.requires_grad_(False)
    names = [name for name, _ in model.named_modules()]
    for name in modules:
        if name not in names:
            closest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            raise ValueError(f"trainable names {name!r}, but the model has no such module; the closest is {closest!r}")
        model.get_submodule(name).requires_grad_(True)


def parameter_groups(model: nn.Module) -> list[tuple[str, int, int]]:
    """Name, number of trainable and of all parameters of each part of the model, such as `model.pooling`."""
    total, trainable = Counter(), Counter()
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[: 2 if name.startswith("model.") else 1])
        total[part] += parameter.numel()
        trainable[part] += parameter.numel() * parameter.requires_grad
    return [(part, trainable[part], count) for part, count in total.items()]


def train_stage(stage: StageConfig, config: SFTConfig) -> Path:
    """Runs a stage, or what is left of it, and returns the folder of the finished model."""
    finished = Path(config.output_dir) / "model"
    if finished.is_dir():
        logger.info("%s is complete; nothing to train", finished)
        return finished
    register_auto_classes()

    # Model
    processor = FlashSlothProcessor.from_pretrained(stage.model)
    processor.image_processor.hd = stage.hd
    model = FlashSlothForCausalLM.from_pretrained(
        stage.model, dtype="float32", attn_implementation=stage.attn_implementation
    )
    select_trainable(model, stage.trainable)
    for part, trainable, count in parameter_groups(model):
        logger.info("%-28s %13s of %13s parameters train", part, f"{trainable:,}", f"{count:,}")

    # Data
    dataset = load_from_disk(stage.dataset)
    logger.info("%s: %s rows", stage.dataset, f"{len(dataset):,}")

    # Training
    optimizer = None
    if stage.optimizer == "muon":
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        optimizer = MuonWithAdamW(trained, config.learning_rate, config.weight_decay)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        optimizers=(optimizer, None),
    )
    last = get_last_checkpoint(config.output_dir) if Path(config.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_state()
    with new_folder(finished) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return finished


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file of the stage")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        stage, config = read_config(parsed.config, parsed.overrides)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(train_stage(stage, config))


if __name__ == "__main__":
    main()
