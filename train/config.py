# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The settings of a training run, out of one YAML file. Beside `output_dir` and everything else of `trl.SFTConfig`:

    model: checkpoints/flashsloth-tiny     # what the stage starts from
    data:                                  # one source, or a list of them
      - {path: llava_v1_5_mix665k.json, image_folder: images}
    trainable: [model.multi_modal_projector, model.language_model, lm_head]
    global_batch_size: 128                 # rows per step over all processes; accumulation follows from it
"""

import dataclasses
import difflib
import functools
import math
import operator
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_origin

import torch
import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import get_scheduler
from trl import SFTConfig

from flashsloth.loading import has_fast_bfloat16
from flashsloth.train.data.sources import DataSource


OPTIMIZERS = ("adamw", "muon")
ON_BROKEN_ROWS = ("stop", "skip")
QUANTIZATIONS = ("nf4",)
ORDERS = ("group_by_length", "random", "sequential")

# Seconds that the other processes wait while the first one reads and checks the data: hours, for 665,000 pictures on
# a slow disk. The libraries' own limit is half an hour.
DDP_TIMEOUT = 6 * 3600

# Fields of `trl.SFTConfig` whose annotations say less than what they take.
UNTYPED = ("fsdp", "fsdp_config", "deepspeed", "debug")
# Fields of `trl.SFTConfig` that are quantities: no number below 0, and a finite one.
QUANTITIES = (
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "seed",
    "data_seed",
    "dataloader_num_workers",
    "num_train_epochs",
    "warmup_steps",
    "logging_steps",
    "save_steps",
)

# Follow from what is said here, or are what this library is about.
DERIVED = {
    "gradient_accumulation_steps": "it follows from global_batch_size, per_device_train_batch_size and the number of "
    "processes",
    "accelerator_config": "how rows are dealt to processes follows from the same",
    "auto_find_batch_size": "it would change how many rows a step takes; per_device_train_batch_size may be lowered",
    "save_only_model": "a run that was stopped could not go on",
    "ignore_data_skip": "a run that goes on has to go on with the rows that are left",
    "resume_from_checkpoint": "a run goes on from the last complete checkpoint in its output_dir",
    "model_init_kwargs": "how the model is loaded follows from the other settings",
    "assistant_only_loss": "answers and their </s> are always all that is learned",
    "remove_unused_columns": "columns that the model does not read are always left out",
}


@strict
@dataclass
class LoraSettings:
    """
    An adapter.

    Args:
        parts (`list[str]`, *optional*, defaults to `["model.language_model"]`): Modules whose linear layers, at any
            depth, get an adapter; named as in `trainable`. The default holds nine tenths of the published model's
            linear layers; the rest is small or sees pictures.
        r (`int`, *optional*, defaults to 16): Rank.
        alpha (`float`, *optional*): The update is scaled by `alpha / r`; `2 * r` if unset.
        dropout (`float`, *optional*, defaults to 0.05): Of the adapter's input.
        modules_to_save (`list[str]`, *optional*): Modules that train whole, and whose weights the adapter's file
            holds: what is no linear layer, such as `model.query_tokens`, or `lm_head`.

    Raises:
        ValueError: If `parts` is empty, `r` is below 1, `alpha` not above 0, or `dropout` no share below 1.
    """

    parts: list[str] = field(default_factory=lambda: ["model.language_model"])
    r: int = 16
    alpha: float | int | None = None
    dropout: float | int = 0.05
    modules_to_save: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.alpha is None:
            self.alpha = 2 * self.r
        for key, is_valid, what in (
            ("parts", bool(self.parts), "names the modules that get an adapter"),
            ("r", self.r >= 1, "has to be 1 or more"),
            ("alpha", 0 < self.alpha < math.inf, "has to be above 0, and finite"),
            ("dropout", 0 <= self.dropout < 1, "has to be 0 or more, and below 1"),
        ):
            if not is_valid:
                raise ValueError(f"lora {key} is {getattr(self, key)!r}: it {what}")


@strict
@dataclass
class StageConfig:
    """
    What a stage is, beside TRL's settings.

    Args:
        model (`str`): Folder, or name on the Hub, of the model that the stage starts from.
        data (`list[DataSource]`): What it learns from.
        trainable (`list[str]`, *optional*): Modules of the model that train, by name; all others stay as they are.
            Exactly one of `trainable` and `lora` is given.
        global_batch_size (`int`, *optional*): Rows per step, over all processes. Without it, a step takes
            `per_device_train_batch_size` rows of each process.
        learning_rates (`dict[str, float]`, *optional*): Learning rates by module name, in place of `learning_rate`.
        hd (`bool`, *optional*, defaults to `False`): Whether images are seen in high definition.
        optimizer (`str`, *optional*, defaults to `"adamw"`): "adamw" (TRL's settings) or "muon" ([`MuonWithAdamW`]).
        attn_implementation (`str`, *optional*, defaults to `"sdpa"`): "eager" is the fastest on a CPU at tiny sizes.
        on_broken_rows (`str`, *optional*, defaults to `"stop"`): Whether rows that cannot be learned from stop the run
            before its first step, or are left out and listed ("skip").
        lora ([`LoraSettings`], *optional*): Train an adapter instead of the model.
        quantization (`str`, *optional*): "nf4" trains the adapter on a base of 4 bits per weight (QLoRA).

    Raises:
        ValueError: If a value is none of those above, or two contradict each other.
    """

    model: str
    data: list[DataSource]
    trainable: list[str] = field(default_factory=list)
    global_batch_size: int | None = None
    learning_rates: dict[str, float | int] = field(default_factory=dict)
    hd: bool = False
    optimizer: str = "adamw"
    attn_implementation: str = "sdpa"
    on_broken_rows: str = "stop"
    lora: LoraSettings | None = None
    quantization: str | None = None

    def __post_init__(self):
        for key, choices in (("optimizer", OPTIMIZERS), ("on_broken_rows", ON_BROKEN_ROWS)):
            value = getattr(self, key)
            if value not in choices:
                raise ValueError(f"{key} is {value!r}; choose one of {', '.join(choices)}")
        if self.quantization not in (None, *QUANTIZATIONS):
            raise ValueError(f"quantization is {self.quantization!r}; choose nf4, or leave it out")
        if self.quantization and not self.lora:
            raise ValueError("quantization needs lora: quantized weights cannot be trained, only an adapter on them")
        if self.optimizer == "muon" and self.lora:
            raise ValueError("optimizer muon is for the model's own matrices: with lora, leave it out")
        if bool(self.trainable) == bool(self.lora):
            said = "both `trainable` and `lora`" if self.lora else "neither `trainable` nor `lora`"
            raise ValueError(f"the stage has {said}: name the modules that train, or the settings of an adapter")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; people mean the number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")


def read_config(path: Path, overrides: list[str], world_size: int | None = None) -> tuple[StageConfig, SFTConfig]:
    """
    Reads a stage's YAML file.

    Args:
        path (`Path`): The file.
        overrides (`list[str]`): `key=value` pairs that replace its values; a value is YAML.
        world_size (`int`, *optional*): Number of processes; that of this launch (`WORLD_SIZE`) if unset.

    Raises:
        ValueError: If a key is unknown (the message names the closest one), missing or not for the user to set, an
            override is no pair, a value is none of the possible ones, or the global batch size cannot be divided.
    """
    settings = read_settings(path, overrides)
    stage_fields = {field.name: field for field in dataclasses.fields(StageConfig)}
    sft_fields = [field.name for field in dataclasses.fields(SFTConfig) if field.init]
    for key, reason in DERIVED.items():
        if key in settings:
            raise ValueError(f"{path} sets {key}, which is not for you to set: {reason}")
    _check_keys(settings, [*stage_fields, *(name for name in sft_fields if name not in DERIVED)], path)
    for key in ("model", "data", "output_dir"):
        if settings.get(key) in (None, ""):
            raise ValueError(f"{path} lacks the key {key!r}")
    stage = {key: settings.pop(key) for key in stage_fields if settings.get(key) is not None}
    stage["data"] = _read_sources(stage["data"], path)
    stage["trainable"] = _as_list(stage.get("trainable", []))
    if "lora" in stage:
        stage["lora"] = _read_lora(stage["lora"], path)
    stage = _checked(StageConfig, stage, path)
    settings = {key: value for key, value in settings.items() if key not in stage_fields}
    typed = {key: value for key, value in settings.items() if key not in UNTYPED}
    _checked(_of_types({field.name: field.type for field in dataclasses.fields(SFTConfig)}, typed), typed, path)
    _check_quantities(settings, stage, path)
    # Nothing is cut unless a limit is asked for: truncation could cut an image's tokens or an answer.
    defaults = {"max_length": None, "train_sampling_strategy": "group_by_length", "ddp_timeout": DDP_TIMEOUT}
    is_on_cpu = settings.get("use_cpu") or not torch.accelerator.is_available()
    if is_on_cpu and not has_fast_bfloat16():
        defaults["bf16"] = False  # which TRL turns on
    try:
        config = SFTConfig(**defaults | settings, assistant_only_loss=True)
    # Whatever the libraries make of values that they do not expect; types have been checked.
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} has settings that are not possible: {error}") from error
    _check_values(config, path)
    for name, rows in (
        ("global_batch_size", stage.global_batch_size),
        ("per_device_train_batch_size", config.per_device_train_batch_size),
    ):
        if rows is not None and rows < 1:
            raise ValueError(f"{name} is {rows!r}: it has to be a number of rows, 1 or more")
    if stage.global_batch_size is not None:
        config.gradient_accumulation_steps = accumulation_steps(
            stage.global_batch_size, config.per_device_train_batch_size, world_size or launched_processes()
        )
    return stage, config


def _check_quantities(settings: dict, stage: StageConfig, path: Path) -> None:
    quantities = {key: settings[key] for key in QUANTITIES if settings.get(key) is not None}
    quantities |= {f"learning_rates of {module}": rate for module, rate in stage.learning_rates.items()}
    for key, value in quantities.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{key} in {path} is {value}: it has to be a finite number, 0 or more")


def _check_values(config: SFTConfig, path: Path) -> None:
    """What the trainer would notice after the data has been read, or not at all."""
    if config.max_steps <= 0 and config.num_train_epochs == 0:
        raise ValueError(f"num_train_epochs in {path} is 0: there would be nothing to train")
    if config.max_length is not None and config.max_length < 1:
        raise ValueError(f"max_length in {path} is {config.max_length}: it has to be a number of tokens, 1 or more")
    if config.packing or config.padding_free:
        raise ValueError(f"{path} sets packing or padding_free: rows with images cannot be packed")
    if config.eval_strategy != "no":
        raise ValueError(f"{path} sets eval_strategy, but a stage has no data to evaluate on: ask its checkpoints")
    if config.dataloader_persistent_workers and not config.dataloader_num_workers:
        raise ValueError(f"dataloader_persistent_workers in {path} needs dataloader_num_workers above 0")
    if config.train_sampling_strategy not in ORDERS:
        raise ValueError(
            f"train_sampling_strategy in {path} is {config.train_sampling_strategy!r}; choose one of "
            f"{', '.join(ORDERS)}"
        )
    weight = nn.Parameter(torch.zeros(1))
    try:
        get_scheduler(
            config.lr_scheduler_type,
            torch.optim.SGD([weight], lr=config.learning_rate),
            num_warmup_steps=0,
            num_training_steps=1,
            scheduler_specific_kwargs=dict(config.lr_scheduler_kwargs or {}),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"lr_scheduler_kwargs in {path} do not fit lr_scheduler_type {config.lr_scheduler_type.value!r}: {error}"
        ) from error


def read_settings(path: Path, overrides: list[str]) -> dict:
    """The mapping in a YAML file, with `key=value` pairs in place of some of its values."""
    settings = _from_yaml(path.read_text(encoding="utf-8"), path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings: write `key: value` lines")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"{override!r} is no override: write key=value")
        settings[key] = _from_yaml(value, override)
    for key in settings:
        if key.endswith("_strategy") and settings[key] is False:
            settings[key] = "no"  # which YAML 1.1 reads as false
    return settings


def _from_yaml(text: str, where):
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from error


def launched_processes() -> int:
    """How many processes torchrun or `accelerate launch` started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accumulation_steps(global_batch_size: int, per_device_batch_size: int, num_processes: int) -> int:
    """
    How many micro batches of each process make a step of `global_batch_size` rows.

    Raises:
        ValueError: If they do not divide; the message names the nearest sizes that do.
    """
    rows = per_device_batch_size * num_processes
    if global_batch_size >= rows and global_batch_size % rows == 0:
        return global_batch_size // rows
    below = global_batch_size // rows * rows
    nearest = f"{below} or {below + rows}" if below else f"{rows}"
    raise ValueError(
        f"global_batch_size is {global_batch_size}, but processes: {num_processes}, with per_device_train_batch_size "
        f"{per_device_batch_size} each, take {rows} rows at a time. The nearest global sizes that divide: {nearest}"
    )


def _read_sources(data, path: Path) -> list[DataSource]:
    sources = []
    for source in _as_list(data):
        source = {"path": source} if isinstance(source, str) else source
        if not isinstance(source, dict):
            raise ValueError(f"data in {path} has {source!r}: write a path, or a mapping such as {{path: ...}}")
        _check_keys(source, [field.name for field in dataclasses.fields(DataSource)], f"data in {path}")
        if not source.get("path"):
            raise ValueError(f"data in {path} has a source without a path")
        sources.append(_checked(DataSource, source, f"data in {path}"))
    if not sources:
        raise ValueError(f"data in {path} is empty")
    return sources


def _read_lora(lora, path: Path) -> LoraSettings:
    if not isinstance(lora, dict):
        raise ValueError(f"lora in {path} is {lora!r}: it holds settings such as {{parts: [...], r: 16}}")
    _check_keys(lora, [field.name for field in dataclasses.fields(LoraSettings)], f"lora in {path}")
    given = {key: value for key, value in lora.items() if value is not None}
    for key in ("parts", "modules_to_save"):
        if key in given:
            given[key] = _as_list(given[key])
    return _checked(LoraSettings, given, f"lora in {path}")


def _checked(kind: type, settings: dict, where):
    try:
        return kind(**settings)
    except StrictDataclassError as error:
        raise ValueError(f"{where} has a value of a wrong type: {' '.join(str(error).split())}") from error


def _of_types(types: dict, settings: dict) -> type:
    """A class of these settings that checks their types, which `SFTConfig` does not do."""
    kinds = {key: _said_in_yaml(types[key]) for key in settings}
    return strict(dataclasses.make_dataclass("SFTConfig", kinds.items()))


def _said_in_yaml(kind):
    """A whole number is a float, and a mapping is no text or file name, as it may be on TRL's command line."""
    kinds = get_args(kind) or (kind,)
    if float in kinds:
        return kind | int
    if any(dict in (option, get_origin(option)) for option in kinds):
        kinds = [option for option in kinds if option is not str]
        return functools.reduce(operator.or_, kinds)
    return kind


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def _check_keys(settings: dict, known: Iterable[str], where) -> None:
    for key in settings:
        if key not in known:
            closest = difflib.get_close_matches(str(key), known, n=1, cutoff=0)[0]
            raise ValueError(f"{where} has the unknown key {key!r}; the closest known one is {closest!r}")
