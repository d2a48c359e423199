# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The settings of a training run: one object, read from one YAML file. Beside `output_dir` and everything else of
`trl.SFTConfig`:

    model: checkpoints/flashsloth-tiny     # the model that the stage starts from
    data:                                  # one source, or a list of them
      - {path: llava_v1_5_mix665k.json, image_folder: images}
    trainable: [model.multi_modal_projector, model.language_model, lm_head]
    global_batch_size: 128                 # rows per step over all processes; accumulation follows from it

`flashsloth.train.settings` shows how the command line changes single values.
"""

import difflib
import math
import os
from dataclasses import asdict, dataclass, field, fields
from inspect import formatannotation
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import torch
from huggingface_hub.dataclasses import strict, type_validator
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import HfArgumentParser, get_scheduler
from transformers.trainer_utils import SaveStrategy
from trl import SFTConfig

from flashsloth.loading import has_fast_bfloat16
from flashsloth.train.data.sources import DataSource
from flashsloth.train.data.wording import hide_secrets, quote, shorten
from flashsloth.train.evaluation import EXACT_MATCH, METRICS
from flashsloth.train.settings import SOURCES, Origin, as_list, read_settings


# Seconds that the other processes wait while the first one reads and validates the data: hours, for 665,000 images on
# a slow disk. The libraries' own limit is half an hour.
DDP_TIMEOUT = 6 * 3600

# Fields of `trl.SFTConfig` that are quantities: finite numbers, 0 or more.
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
    "eval_steps",
    "eval_delay",
    "early_stopping_threshold",
)

# Fields of `trl.SFTConfig` that a file may not set, and why.
DERIVED = {
    "gradient_accumulation_steps": "it follows from global_batch_size, per_device_train_batch_size and the number of "
    "processes",
    "accelerator_config": "how rows are split between processes follows from the same",
    "auto_find_batch_size": "it would change how many rows a step takes; per_device_train_batch_size may be lowered",
    "save_only_model": "a run that was stopped could not be resumed",
    "ignore_data_skip": "a resumed run has to read the rows that are left",
    "resume_from_checkpoint": "a run is resumed from the last complete checkpoint in its output_dir",
    "model_init_kwargs": "how the model is loaded follows from the other settings",
    "assistant_only_loss": "the loss always covers the answers and their </s>, and nothing else",
    "remove_unused_columns": "columns that the model does not read are always left out",
}

# Fields that ask for an evaluation, which needs data.
EVALUATING = (
    "do_eval",
    "eval_on_start",
    "eval_steps",
    "eval_delay",
    "eval_exact_match",
    "early_stopping_patience",
    "load_best_model_at_end",
    "metric_for_best_model",
)
# Fields of `trl.SFTConfig` that do nothing in a run, and what does.
WITHOUT_EFFECT = {
    "fp16_full_eval": "an evaluation during training computes as training does; fp16 sets both",
    "bf16_full_eval": "an evaluation during training computes as training does; bf16 sets both",
    "do_predict": "a run predicts nothing; ask the finished model",
    "eos_token": "an answer ends with the </s> of the model",
    "pad_token": "rows are padded with the token of the model",
    "label_names": "the labels of a batch are made of its answers",
    "eval_packing": "rows with images cannot be packed",
}

# Fields of `trl.SFTConfig` by which the trainer itself would publish a run: its output folder as it is, with pickles,
# paths of this machine and folders that are half written.
PUBLISHING = ("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_always_push", "hub_revision")


@strict
@dataclass
class LoraSettings:
    """
    An adapter.

    Args:
        parts (`list[str]`, *optional*, defaults to `["model.language_model"]`): Modules whose linear layers, at any
            depth, get an adapter; named as in `trainable`. The default holds nine tenths of the published model's
            linear layers; the other modules are small or process images.
        r (`int`, *optional*, defaults to 16): Rank.
        alpha (`float`, *optional*): The update is scaled by `alpha / r`; `2 * r` if unset.
        dropout (`float`, *optional*, defaults to 0.05): Dropout of the adapter's input.
        modules_to_save (`list[str]`, *optional*): Modules that are trained in full, and whose weights the adapter's
            file holds: those that are no linear layers, such as `model.query_tokens`, or `lm_head`.

    Raises:
        ValueError: If `parts` is empty, `r` is below 1, `alpha` is not above 0, or `dropout` is not from 0 to below 1.
    """

    parts: list[str] = field(default_factory=lambda: ["model.language_model"])
    r: int = 16
    alpha: float | int | None = None
    dropout: float | int = 0.05
    modules_to_save: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.alpha is None:
            self.alpha = 2 * self.r
        for key, is_valid, rule in (
            ("parts", bool(self.parts), "names the modules that get an adapter"),
            ("r", self.r >= 1, "has to be 1 or more"),
            ("alpha", 0 < self.alpha < math.inf, "has to be above 0, and finite"),
            ("dropout", 0 <= self.dropout < 1, "has to be 0 or more, and below 1"),
        ):
            if not is_valid:
                raise ValueError(f"lora {key} is {getattr(self, key)!r}: it {rule}")


@dataclass(kw_only=True)
class StageConfig(SFTConfig):
    """
    The settings of a training run: those of `trl.SFTConfig`, and those of this library.

    Args:
        model (`str`): Folder, or name on the Hub, of the model that the stage starts from.
        data (`list[DataSource]`): What it learns from.
        output_dir (`str`): Folder for checkpoints, the record of the run, and the finished model.
        trainable (`list[str]`, *optional*): Modules of the model that are trained, by name; all others are frozen.
            Exactly one of `trainable` and `lora` is given.
        global_batch_size (`int`, *optional*): Rows per step, over all processes; `gradient_accumulation_steps` follows
            from it. Without it, a step takes `per_device_train_batch_size` rows of each process.
        learning_rates (`dict[str, float]`, *optional*): Learning rates by module name, in place of `learning_rate`.
        hd (`bool`, *optional*, defaults to `False`): Whether images are processed in high definition.
        optimizer (`str`, *optional*, defaults to `"adamw"`): "adamw" (TRL's settings) or "muon" ([`MuonWithAdamW`]).
        attn_implementation (`str`, *optional*, defaults to `"sdpa"`): "eager" is the fastest on a CPU at tiny sizes.
        on_broken_rows (`str`, *optional*, defaults to `"stop"`): Whether broken rows stop the run before its first
            step, or are left out and listed ("skip").
        eval_data (`list[DataSource]`, *optional*): What the model is evaluated on during training.
        eval_split (`float` or `int`, *optional*): Hold out this share of the rows of `data`, or this number of them,
            in place of `eval_data`. `seed` decides which; they are not trained on.
        eval_exact_match (`bool` or `int`, *optional*, defaults to `False`): Whether an evaluation also generates the
            last answer of each row and counts those that are right word for word, or for how many rows.
        early_stopping_patience (`int`, *optional*): Stop after so many evaluations in a row without a better
            `metric_for_best_model`.
        early_stopping_threshold (`float`, *optional*, defaults to 0): By how much it has to be better.
        lora ([`LoraSettings`], *optional*): Train an adapter instead of the model.
        quantization (`str`, *optional*): "nf4" trains the adapter on a base of 4 bits per weight (QLoRA).

        The others are those of `trl.SFTConfig`, with other defaults for some: rows are grouped by length
        (`train_sampling_strategy`), no row is cut (`max_length`), the loss covers the answers only
        (`assistant_only_loss`), with data to evaluate on there is an evaluation before each checkpoint
        (`eval_strategy`), and `bf16` is off on a CPU that has no instructions for it.

    Raises:
        ValueError: If a value has the wrong type or is not possible, or two values contradict each other.
    """

    model: str
    data: list[DataSource]
    output_dir: str
    trainable: list[str] = field(default_factory=list)
    global_batch_size: int | None = None
    learning_rates: dict[str, float | int] = field(default_factory=dict)
    hd: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"
    attn_implementation: str = "sdpa"
    on_broken_rows: Literal["stop", "skip"] = "stop"
    eval_data: list[DataSource] = field(default_factory=list)
    eval_split: float | None = None
    eval_exact_match: Any = False
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    lora: LoraSettings | None = None
    quantization: Literal["nf4"] | None = None

    # Fields of `trl.SFTConfig` with another default.
    assistant_only_loss: bool = True
    max_length: int | None = None  # truncation could cut the tokens of an image, or an answer
    train_sampling_strategy: Literal["group_by_length", "random", "sequential"] = "group_by_length"
    ddp_timeout: int = DDP_TIMEOUT
    eval_strategy: Any = None  # follows from save_strategy, if there is data to evaluate on
    restore_callback_states_from_checkpoint: bool = True  # how long early stopping has waited
    # Fields that TRL's own command line also takes as text.
    lr_scheduler_kwargs: dict[str, Any] | None = None
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    activation_checkpointing_kwargs: dict[str, Any] | None = None
    # Fields that take more than their annotations say.
    fsdp: Any = None
    debug: Any = ""

    def __post_init__(self):
        self._check_types()
        self._check_stage()
        self._check_publishing()
        self._check_quantities()
        self._check_evaluation()
        self._set_evaluation()
        if self.bf16 is None and (self.use_cpu or not torch.accelerator.is_available()) and not has_fast_bfloat16():
            self.bf16 = False  # which TRL turns on
        # The old names are deprecated, but TRL sets one of them.
        if self.activation_checkpointing is None:
            self.activation_checkpointing = self.gradient_checkpointing
        if self.activation_checkpointing_kwargs is None:
            self.activation_checkpointing_kwargs = self.gradient_checkpointing_kwargs
        try:
            super().__post_init__()
        # What the libraries raise for values that they do not expect.
        except (TypeError, KeyError, AttributeError, ImportError, RuntimeError, OverflowError) as error:
            raise ValueError(f"these settings are not possible: {error}") from error
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # it is for copies to a GPU, and torch warns of it
        self._check_training()
        self.set_num_processes(self.world_size)

    def set_num_processes(self, num_processes: int) -> None:
        """
        Makes `gradient_accumulation_steps` follow from `global_batch_size`, if there is one.

        Args:
            num_processes (`int`): Number of processes of the run.

        Raises:
            ValueError: If the global batch size cannot be divided.
        """
        if self.global_batch_size is not None:
            self.gradient_accumulation_steps = accumulation_steps(
                self.global_batch_size, self.per_device_train_batch_size, num_processes
            )

    def to_dict(self) -> dict[str, Any]:
        nested = {name: [asdict(source) for source in getattr(self, name)] for name in ("data", "eval_data")}
        nested["lora"] = self.lora and asdict(self.lora)
        return super().to_dict() | nested

    def _check_types(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if float in (kind, *get_args(kind)):
                kind = kind | int
            value = getattr(self, name)
            try:
                type_validator(name, value, kind)
            except TypeError as error:
                expected = formatannotation(kind)
                raise ValueError(
                    f"{name} is {shorten(hide_secrets(repr(value)))}: it must be of type {expected}"
                ) from error

    def _check_stage(self) -> None:
        if self.quantization and not self.lora:
            raise ValueError("quantization needs lora: quantized weights cannot be trained, only an adapter on them")
        if self.optimizer == "muon" and self.lora:
            raise ValueError("optimizer muon is for the model's own matrices: with lora, leave it out")
        if bool(self.trainable) == bool(self.lora):
            given = "both `trainable` and `lora`" if self.lora else "neither `trainable` nor `lora`"
            raise ValueError(
                f"the stage has {given}: name the modules that are trained, or the settings of an adapter"
            )
        for name in ("global_batch_size", "per_device_train_batch_size"):
            rows = getattr(self, name)
            if rows is not None and rows < 1:
                raise ValueError(f"{name} is {rows!r}: it has to be a number of rows, 1 or more")

    def _check_publishing(self) -> None:
        for default in fields(SFTConfig):
            if default.name in PUBLISHING and getattr(self, default.name) not in (default.default, None):
                raise ValueError(
                    f"{default.name} is set, but a run publishes nothing: leave it out, and publish the finished "
                    f"model by `flashsloth push {self.output_dir}/model OWNER/NAME --private`"
                )
        spaces = {name: getattr(self, name) for name in ("trackio_space_id", "trackio_static_space_id")}
        spaces = {name: space for name, space in spaces.items() if space}
        if self.hub_private_repo is None:
            for name, space in spaces.items():
                raise ValueError(
                    f"{name} is {space!r}, a Space that everybody can read: set hub_private_repo=true, or false if it "
                    "shall be public"
                )
        elif not spaces:
            raise ValueError("hub_private_repo is set, but there is no trackio_space_id that it would be for")

    def _check_quantities(self) -> None:
        quantities = {name: getattr(self, name) for name in QUANTITIES}
        quantities |= {f"learning_rates of {module}": rate for module, rate in self.learning_rates.items()}
        for name, value in quantities.items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}: it has to be a finite number, 0 or more")
        for name in ("adam_beta1", "adam_beta2"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it has to be 0 or more, and below 1")
        if self.adam_epsilon == 0:
            raise ValueError("adam_epsilon is 0: it has to be above 0")
        if self.label_smoothing_factor > 1:
            raise ValueError(f"label_smoothing_factor is {self.label_smoothing_factor}: it has to be from 0 to 1")

    @property
    def is_evaluated(self) -> bool:
        """Whether there is data to evaluate on."""
        return bool(self.eval_data) or self.eval_split is not None

    def _check_evaluation(self) -> None:
        for name, reason in WITHOUT_EFFECT.items():
            if getattr(self, name):
                raise ValueError(f"{name} is set, but it has no effect: {reason}")
        if not self.is_evaluated:
            values = {
                "save_strategy": self.save_strategy == "best" and "best",
                "eval_strategy": self.eval_strategy not in (None, "no") and self.eval_strategy,
            }
            values |= {name: getattr(self, name) for name in EVALUATING}
            for name, value in values.items():
                if value:
                    raise ValueError(
                        f"{name} is {value!r}, but the stage has no data to evaluate on: name some by eval_data, or "
                        "hold rows out by eval_split=0.01"
                    )
            return
        self._check_held_out()
        if self.eval_strategy == "no":
            raise ValueError(
                "eval_strategy is 'no', but there is data to evaluate on: leave eval_strategy out, or eval_data and "
                "eval_split"
            )
        if not isinstance(self.eval_exact_match, int) or self.eval_exact_match < 0:
            raise ValueError(f"eval_exact_match is {self.eval_exact_match!r}: it has to be true, or a number of rows")
        if self.per_device_eval_batch_size < 1:
            raise ValueError(
                f"per_device_eval_batch_size is {self.per_device_eval_batch_size}: it has to be 1 or more"
            )
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience is {self.early_stopping_patience}: it has to be 1 or more")
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise ValueError("early_stopping_threshold needs early_stopping_patience, a number of evaluations")
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in METRICS:
            raise ValueError(
                f"metric_for_best_model is {self.metric_for_best_model!r}: an evaluation has {', '.join(METRICS)}"
            )
        if metric == EXACT_MATCH and not self.eval_exact_match:
            raise ValueError(f"metric_for_best_model is {metric!r}, which is measured with eval_exact_match=true only")

    def _check_held_out(self) -> None:
        if self.eval_data and self.eval_split is not None:
            raise ValueError("there are both eval_data and eval_split: leave one of them out")
        if self.eval_split is not None:
            is_share, is_number = 0 < self.eval_split < 1, self.eval_split >= 1 and self.eval_split % 1 == 0
            if not (is_share or is_number) or self.eval_split is True:
                raise ValueError(
                    f"eval_split is {self.eval_split}: it has to be a share of the rows, above 0 and below 1, or a "
                    "number of rows"
                )
            if any(source.streaming for source in self.data):
                raise ValueError(
                    "eval_split holds out rows of a set, but the data is a stream: name others by eval_data"
                )
        for source in self.eval_data:
            if source.streaming:
                raise ValueError(f"eval_data has the stream {source.shown}, which has no end: leave streaming out")

    def _set_evaluation(self) -> None:
        """Evaluates before each checkpoint, unless the settings say when."""
        if self.eval_strategy is None:
            self.eval_strategy = "no"
            if self.is_evaluated:
                is_by_epoch = self.save_strategy in (SaveStrategy.EPOCH, SaveStrategy.NO)
                self.eval_strategy = "epoch" if is_by_epoch else "steps"
                self.eval_steps = self.eval_steps or (None if is_by_epoch else self.save_steps)
        if self.early_stopping_patience or self.save_strategy == "best":
            self.metric_for_best_model = self.metric_for_best_model or "loss"

    def _check_training(self) -> None:
        """Checks what the trainer would notice after the data has been read, or not at all."""
        if self.max_steps <= 0 and self.num_train_epochs == 0:
            raise ValueError("num_train_epochs is 0: there would be nothing to train")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}: it has to be a number of tokens, 1 or more")
        if self.packing or self.padding_free:
            raise ValueError("packing or padding_free is set, but rows with images cannot be packed: leave both out")
        if 0 < self.max_steps < self.eval_delay:
            raise ValueError(
                f"eval_delay is {self.eval_delay}, but the run ends after max_steps {self.max_steps}, without an "
                "evaluation: lower eval_delay"
            )
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise ValueError("dataloader_persistent_workers needs dataloader_num_workers above 0")
        try:
            get_scheduler(
                self.lr_scheduler_type,
                torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=self.learning_rate),
                num_warmup_steps=0,
                num_training_steps=1,
                scheduler_specific_kwargs=dict(self.lr_scheduler_kwargs or {}),
            )
        except (TypeError, ValueError) as error:
            scheduler = self.lr_scheduler_type.value
            raise ValueError(f"lr_scheduler_kwargs do not fit lr_scheduler_type {scheduler!r}: {error}") from error


# The fields that this library adds to those of `trl.SFTConfig`.
OWN_FIELDS = {field.name for field in fields(StageConfig)} - {field.name for field in fields(SFTConfig)}


def read_config(path: Path, overrides: list[str], num_processes: int | None = None) -> StageConfig:
    """
    Reads a stage's YAML file.

    Args:
        path (`Path`): The file.
        overrides (`list[str]`): `key=value` pairs that change its values, as `flashsloth.train.settings` shows.
        num_processes (`int`, *optional*): Number of processes to plan for; that of this launch if unset.

    Raises:
        ValueError: If a key is unknown (the message names the closest one), missing or not for the user to set, an
            override is no pair, a value is not possible, or the global batch size cannot be divided.
    """
    settings = read_settings(path, overrides)
    origin = Origin(path, overrides)
    for key, reason in DERIVED.items():
        if key in settings:
            raise ValueError(f"{origin.of(key)} sets {key}, which cannot be set: {reason}")
    _check_keys(settings, StageConfig, origin)
    if settings.get("do_train") is False:
        raise ValueError(f"{origin.of('do_train')} sets do_train=false, but a run trains: use flashsloth data check")
    for key in ("model", "data", "output_dir"):
        if settings.get(key) in (None, ""):
            raise ValueError(f"{origin.of_all(key)} lacks the key {key!r}")
    settings = {key: value for key, value in settings.items() if value is not None or key not in OWN_FIELDS}
    for name in SOURCES:
        if name in settings:
            settings[name] = [_read_source(source, origin, name) for source in settings[name]]
    if not settings["data"]:
        raise ValueError(f"data in {origin.of('data')} is empty")
    if "trainable" in settings:
        settings["trainable"] = as_list(settings["trainable"])
    if "lora" in settings:
        settings["lora"] = _read_lora(settings["lora"], origin)
    # A planned number of processes is not that of this launch, which a new stage divides by.
    planned_size = None
    if num_processes and isinstance(settings.get("global_batch_size"), int):
        planned_size = settings.pop("global_batch_size")
    try:
        [stage] = HfArgumentParser(StageConfig).parse_dict(settings)
        if planned_size is not None:
            stage.global_batch_size = planned_size
            stage.set_num_processes(num_processes)
    except ValueError as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{origin.of_error(text)}: {text}") from error
    return stage


def launched_processes() -> int:
    """How many processes torchrun or `accelerate launch` started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accumulation_steps(global_batch_size: int, per_device_batch_size: int, num_processes: int) -> int:
    """
    Returns how many micro batches of each process make a step of `global_batch_size` rows.

    Raises:
        ValueError: If they do not divide; the message names the nearest sizes that do.
    """
    rows = per_device_batch_size * num_processes
    if global_batch_size >= rows and global_batch_size % rows == 0:
        return global_batch_size // rows
    below = global_batch_size // rows * rows
    nearest = f"{below} or {below + rows}" if below else f"{rows}"
    raise ValueError(
        f"global_batch_size is {global_batch_size}, but per_device_train_batch_size {per_device_batch_size} and "
        f"{num_processes} process(es) take {rows} rows at a time. The nearest global sizes that divide: {nearest}"
    )


def _read_source(source, origin: Origin, name: str) -> DataSource:
    if not isinstance(source, dict):
        value = shorten(hide_secrets(repr(source)))
        raise ValueError(f"{name} in {origin.of(name)} has {value}: write a path, or a mapping such as {{path: ...}}")
    _check_keys(source, DataSource, origin, name)
    if not source.get("path"):
        raise ValueError(f"{name} in {origin.of(name, 'path')} has a source without a path")
    given = {key: value for key, value in source.items() if value is not None}
    return _strict(DataSource, given, origin, name)


def _read_lora(lora, origin: Origin) -> LoraSettings:
    if not isinstance(lora, dict):
        raise ValueError(
            f"lora in {origin.of('lora')} is {quote(lora)}: it holds settings such as {{parts: [...], r: 16}}"
        )
    _check_keys(lora, LoraSettings, origin, "lora")
    given = {key: value for key, value in lora.items() if value is not None}
    lists = {key: as_list(given[key]) for key in ("parts", "modules_to_save") if key in given}
    return _strict(LoraSettings, given | lists, origin, "lora")


def _strict(kind: type, settings: dict, origin: Origin, name: str):
    try:
        return kind(**settings)
    except StrictDataclassError as error:
        text = shorten(hide_secrets(" ".join(str(error).split())))
        raise ValueError(f"{name} in {origin.of(name, text)} has a value of a wrong type: {text}") from error


def _check_keys(settings: dict, kind: type, origin: Origin, name: str | None = None) -> None:
    """
    Raises a `ValueError` for a key that is no field of the dataclass `kind`; `name` is the setting that the keys are
    nested in.
    """
    known = [field.name for field in fields(kind) if field.init and field.name not in DERIVED]
    for key in settings:
        if key not in known:
            closest = difflib.get_close_matches(str(key), known, n=1, cutoff=0)[0]
            where = f"{name} in {origin.of(name, str(key))}" if name else origin.of(str(key))
            shown = hide_secrets(repr(key))
            raise ValueError(f"{where} has the unknown key {shown}; the closest known one is {closest!r}")
