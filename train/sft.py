# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Trains a stage of FlashSloth on TRL's SFTTrainer. Stages differ by their YAML file only:

    flashsloth train train/configs/stage2.yaml model=stage1/model data=mix665k.json learning_rate=1e-5
    torchrun --nproc_per_node 8 -m flashsloth train train/configs/stage2.yaml

The file holds the fields of `StageConfig` and of `trl.SFTConfig` (see `flashsloth.train.config`). A run that was
stopped, in whatever way, goes on from its last complete checkpoint when the same command is started again. The
finished model, with processor and code, is `OUTPUT_DIR/model`; beside it and the checkpoints stand `training.json` and
`curves.png`.
"""

import contextlib
import difflib
import logging
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer import TRAINING_ARGS_NAME
from trl import SFTConfig

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, FlashSlothProcessor, register_auto_classes
from flashsloth.folders.downloads import find_files
from flashsloth.folders.new_folder import new_folder
from flashsloth.folders.provenance import PROVENANCE_FILE, describe_source, read_provenance, write_provenance
from flashsloth.loading import has_fast_bfloat16, is_quantized
from flashsloth.train.config import StageConfig, read_config
from flashsloth.train.data.fingerprint import fingerprint
from flashsloth.train.data.sources import load_data, name_of
from flashsloth.train.data.streams import StreamFilter
from flashsloth.train.data.validate import SKIPPED_FILE, DataValidation, without
from flashsloth.train.lora import lora_config, quantization_config
from flashsloth.train.optimizers import MuonWithAdamW, by_learning_rate
from flashsloth.train.record import RunRecord, refuse_other_data, refuse_other_settings
from flashsloth.train.resume import clear_write_errors, last_complete_checkpoint
from flashsloth.train.sharding import num_elements, refuse_unsharded_only
from flashsloth.train.trainer import FlashSlothTrainer


__all__ = ["load_model", "parameter_groups", "read_config", "select_trainable", "train_stage"]

logger = logging.getLogger(__name__)


def read_model_config(model: str) -> FlashSlothConfig:
    """
    Reads the config of a model that a stage can start from.

    Raises:
        ValueError: If there is no model, or if it is an adapter, no FlashSloth, or quantized.
    """
    if (Path(model) / "adapter_config.json").is_file():
        raise ValueError(f"{model} is an adapter: merge it first (flashsloth merge), then start from the result")
    register_auto_classes()
    try:
        model_config = AutoConfig.from_pretrained(model)
    except OSError as error:
        raise ValueError(f"There is no model {model} to start from: {error}") from error
    if model_config.model_type != "flashsloth":
        raise ValueError(
            f"{model} is of the type {model_config.model_type!r}, no FlashSloth: make one of a language model "
            "and a SigLIP (flashsloth compose), or of a published checkpoint (flashsloth convert)"
        )
    if is_quantized(model_config):
        raise ValueError(f"{model} is quantized and cannot be trained: start from the model that it was made from")
    return model_config


def load_model(stage: StageConfig) -> FlashSlothForCausalLM:
    """
    Loads the model that a stage starts from, in float32, which is what the optimizer works on, or quantized.

    Raises:
        ValueError: If it is none that a stage can start from, or its weights are damaged or some of them missing.
    """
    read_model_config(stage.model)
    settings = {"dtype": "float32"}
    if stage.quantization:
        settings = {"quantization_config": quantization_config(stage.quantization, stage.lora), "dtype": "bfloat16"}
    try:
        model, loaded = FlashSlothForCausalLM.from_pretrained(
            stage.model, attn_implementation=stage.attn_implementation, output_loading_info=True, **settings
        )
    except (OSError, SafetensorError, RuntimeError) as error:  # missing, cut short, of other shapes
        raise ValueError(f"The weights of {stage.model} cannot be loaded: {error}") from error
    except ImportError as error:
        raise ValueError(f"attn_implementation {stage.attn_implementation!r} is not possible here: {error}") from error
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ValueError(
            f"{stage.model} lacks {len(missing)} tensors, {missing[0]} among them: it is no complete model"
        )
    return model


def select_trainable(model: nn.Module, modules: list[str]) -> None:
    """
    Lets exactly the parameters of the named modules train.

    Raises:
        ValueError: If the model has no module of such a name.
    """
    model.requires_grad_(False)
    names = [name for name, _ in model.named_modules() if name]
    for name in modules:
        if name not in names:
            closest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            raise ValueError(f"trainable names {name!r}, but the model has no such module; the closest is {closest!r}")
        model.get_submodule(name).requires_grad_(True)


def learned_parameters(model: nn.Module, stage: StageConfig) -> list[tuple[str, nn.Parameter]]:
    """
    The parameters, by name, that train once they are selected, or those of the modules that an adapter is for. A head
    that is tied to the embeddings goes by their name.
    """
    parameters = model.named_parameters()
    if stage.trainable:
        return [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    prefixes = tuple(f"{module}." for module in (*stage.lora.parts, *stage.lora.modules_to_save))
    return [(name, parameter) for name, parameter in parameters if name.startswith(prefixes)]


def check_report_to(config: SFTConfig) -> None:
    """
    Raises:
        ValueError: If what `report_to` names is not installed; the trainer would notice after the data has been read.
    """
    try:
        for callback in get_reporting_integration_callbacks(config.report_to):
            callback()
    except (RuntimeError, ImportError, ValueError) as error:
        raise ValueError(f"report_to is {', '.join(config.report_to)}: {error}") from error


def parameter_groups(model: nn.Module) -> list[tuple[str, int, int]]:
    """Name, number of trainable and of all parameters of each part of the model, such as `model.pooling`."""
    total, trainable = Counter(), Counter()
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # PEFT keeps what the adapter trains whole as it was
            continue
        name = name.removeprefix("base_model.model.")  # PEFT's
        part = ".".join(name.split(".")[: 2 if name.startswith("model.") else 1])
        total[part] += num_elements(parameter)
        trainable[part] += num_elements(parameter) * parameter.requires_grad
    return [(part, trainable[part], count) for part, count in total.items()]


def read_data(
    stage: StageConfig, config: SFTConfig, processor: FlashSlothProcessor, is_resumed: bool
) -> tuple[Dataset | IterableDataset, str]:
    """
    The rows that a run learns from, and the fingerprint of its data. The first process checks them, and tells the
    others which are left out.

    Raises:
        ValueError: If the data cannot be read, has broken rows that are not to be skipped, or is not what the run that
            goes on was started with.
    """
    output = Path(config.output_dir)
    with config.main_process_first(desc="reading the data"):
        rows = load_data(stage.data, config.seed, config.process_index, config.world_size)
    if isinstance(rows, IterableDataset) and config.max_steps <= 0:
        raise ValueError("streamed data has no known number of rows: say with max_steps how long to train")
    version, left_out = fingerprint(rows, stage.data), []
    if is_resumed:
        refuse_other_data(version, config)
    if config.process_index == 0:
        if not is_resumed:
            (output / SKIPPED_FILE).unlink(missing_ok=True)  # of an earlier run
        validation = DataValidation(processor, config.max_length, stage.hd, output)
        left_out = validation.rows_to_skip(rows, version, stage.on_broken_rows, is_resumed)
    version_of_first, left_out = broadcast_object_list([version, left_out])
    if version != version_of_first:
        raise ValueError(
            f"process {config.process_index} reads other data than the first one: give all the same files"
        )
    return (rows if isinstance(rows, IterableDataset) else without(rows, left_out)), version


def train_stage(stage: StageConfig, config: SFTConfig) -> Path:
    """
    Runs a stage, or what is left of it.

    Returns:
        `Path`: `OUTPUT_DIR/model`, the finished model, or with `lora` the finished adapter.

    Raises:
        ValueError: If model, data and settings do not fit, if the data has broken rows that are not to be skipped, or
            if the output folder holds a run with other settings or data.
        OSError: If model or data cannot be read, or the disk is full.
    """
    output = Path(config.output_dir)
    finished = output / "model"
    if finished.is_dir():
        refuse_other_settings(stage, config, is_finished=True)
        logger.info("%s is complete; nothing to train", finished)
        return finished
    last = last_complete_checkpoint(output)
    if last:
        refuse_other_settings(stage, config)
    refuse_unsharded_only(stage, config)
    if config.n_gpu > 1:
        # The library would split tensors by their first axis: pixel_values by views, input_ids by rows.
        raise ValueError(
            f"{config.n_gpu} GPUs are visible to one process: start one for each (torchrun --nproc_per_node "
            f"{config.n_gpu} -m flashsloth train ...), or choose one (CUDA_VISIBLE_DEVICES=0)"
        )
    check_report_to(config)
    is_main = config.process_index == 0
    if not is_main:
        logging.getLogger("flashsloth").setLevel(logging.WARNING)  # one process tells what all do
    if is_main and config.bf16 and config.device.type == "cpu" and not has_fast_bfloat16():
        logger.warning(
            "bf16 is set, but this CPU has no instructions for bfloat16: steps can take far longer "
            "than with bf16=false"
        )

    # Model
    model = load_model(stage)
    base = find_files(stage.model, (PROVENANCE_FILE,))  # of a model on the Hub, the local copy that was loaded
    try:
        processor = FlashSlothProcessor.from_pretrained(stage.model)
    except OSError as error:
        raise ValueError(f"The processor of {stage.model} cannot be loaded: {error}") from error
    processor.image_processor.hd = stage.hd
    adapter = lora_config(stage.lora, model) if stage.lora else None
    if not adapter:
        select_trainable(model, stage.trainable)
    trained = learned_parameters(model, stage)
    by_learning_rate(trained, stage.learning_rates)  # names that do not fit are told before the data is read
    optimizer = None
    if stage.optimizer == "muon":
        optimizer = MuonWithAdamW(trained, config.learning_rate, config.weight_decay, stage.learning_rates)
    dataset, version = read_data(stage, config, processor, is_resumed=last is not None)

    # Training
    stream_filter = StreamFilter(processor, config.max_length, stage.hd, stage.on_broken_rows, output)
    trainer = FlashSlothTrainer(
        model,
        config,
        train_dataset=dataset,
        processing_class=processor,
        learning_rates=stage.learning_rates,
        stream_filter=stream_filter,
        peft_config=adapter,
        optimizers=(optimizer, None),
        callbacks=[RunRecord(stage, config, dataset, version)],
    )
    for part, trainable, count in parameter_groups(trainer.model):
        logger.info("%-28s %13s of %13s parameters train", part, f"{trainable:,}", f"{count:,}")
    if last:
        logger.info("Going on from %s", last)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    if trainer.state.global_step == 0 and isinstance(dataset, IterableDataset):
        raise ValueError(
            f"no step was trained: the stream has no rows but broken ones, which {output / SKIPPED_FILE} lists"
        )
    if trainer.state.global_step == 0:
        raise ValueError(
            "no step was trained: the data has fewer rows than a step takes; lower global_batch_size, or leave "
            "dataloader_drop_last out"
        )

    # Result
    unfinished = new_folder(finished) if is_main else contextlib.nullcontext(finished)
    with clear_write_errors(finished), unfinished as folder:
        trainer.save_model(str(folder))
        if is_main:
            (folder / TRAINING_ARGS_NAME).unlink()  # a pickle of this machine's settings; training.json is for people
            trainer.save_state()
            write_provenance(
                folder,
                "train",
                [describe_source("base", base)],
                read_provenance(base),
                data=[name_of(source) for source in stage.data],
                trainable=asdict(stage.lora) if stage.lora else stage.trainable,
                hd=stage.hd,
                steps=trainer.state.global_step,
                global_batch_size=config.train_batch_size * config.gradient_accumulation_steps * config.world_size,
                learning_rate=config.learning_rate,
                seed=config.seed,
            )
    trainer.accelerator.wait_for_everyone()
    return finished
