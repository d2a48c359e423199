# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Trains a stage of FlashSloth on TRL's SFTTrainer. Stages differ by their YAML file only:

    flashsloth train train/configs/stage2.yaml model=stage1/model data=mix665k.json learning_rate=1e-5
    torchrun --nproc_per_node 8 -m flashsloth train train/configs/stage2.yaml

The file holds the fields of `StageConfig`, which extends `trl.SFTConfig` (see `flashsloth.train.config`). A run that
was stopped is resumed from its last complete checkpoint when the same command is started again. The finished model,
with processor and code, is `OUTPUT_DIR/model`, beside the checkpoints, `training.json` and `curves.png`.
"""

import contextlib
import logging
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer import TRAINING_ARGS_NAME

from flashsloth import FlashSlothProcessor
from flashsloth.folders.downloads import find_files
from flashsloth.folders.new_folder import new_folder
from flashsloth.folders.provenance import PROVENANCE_FILE, describe_source, read_provenance, write_provenance
from flashsloth.loading import has_fast_bfloat16, load_processor
from flashsloth.parts import MODEL_FILES
from flashsloth.train.config import StageConfig
from flashsloth.train.data.broken_rows import SKIPPED_FILE, BrokenRow
from flashsloth.train.data.fingerprint import fingerprint
from flashsloth.train.data.sources import check_sources, load_data, name_of
from flashsloth.train.data.streams import StreamFilter
from flashsloth.train.data.validate import DataValidation, without
from flashsloth.train.evaluation import EVAL_FOLDER, hold_out, sample
from flashsloth.train.lora import lora_config
from flashsloth.train.model import learned_parameters, load_stage_model, parameter_groups, select_trainable
from flashsloth.train.optimizers import MuonWithAdamW, by_learning_rate
from flashsloth.train.quiet import quiet_libraries
from flashsloth.train.record import RunRecord
from flashsloth.train.resume import check_same_data, check_same_settings, clear_write_errors, last_complete_checkpoint
from flashsloth.train.sharding import check_sharding
from flashsloth.train.trainer import FlashSlothTrainer


logger = logging.getLogger(__name__)


def train_stage(stage: StageConfig) -> Path:
    """
    Runs a stage, or what is left of it.

    Returns:
        `Path`: `OUTPUT_DIR/model`, the finished model, or with `lora` the finished adapter.

    Raises:
        ValueError: If model, data and settings do not fit, if the data has broken rows that are not to be skipped, or
            if the output folder holds a run with other settings or data.
        OSError: If model or data cannot be read, or the disk is full.
    """
    # What is left to do
    check_output_dir(stage)
    finished = Path(stage.output_dir) / "model"
    if finished.is_dir():
        check_same_settings(stage, is_finished=True)
        logger.info("%s is complete; nothing to train", finished)
        return finished
    checkpoint = last_complete_checkpoint(stage.output_dir)
    if checkpoint:
        check_same_settings(stage)
    check_launch(stage)
    check_sources([*stage.data, *stage.eval_data])

    # Model and processor
    model = load_stage_model(stage)
    base = find_files(stage.model, (PROVENANCE_FILE,))  # of a model on the Hub, the local copy that was loaded
    processor = load_stage_processor(stage)
    adapter, optimizer = prepare_training(stage, model)

    # Data
    data = open_data(stage, processor, is_resumed=checkpoint is not None)

    # Training
    with quiet_libraries():
        trainer = FlashSlothTrainer(
            model,
            stage,
            train_dataset=data.train,
            eval_dataset=data.evaluation,
            exact_match_dataset=rows_to_answer(stage, data.evaluation),
            processing_class=processor,
            learning_rates=stage.learning_rates,
            stream_filter=StreamFilter(processor, stage.max_length, stage.hd, stage.on_broken_rows, stage.output_dir),
            peft_config=adapter,
            optimizers=(optimizer, None),
            callbacks=make_callbacks(stage, data),
        )
        train(trainer, checkpoint)

    # Result
    save_result(trainer, stage, base, finished)
    return finished


def check_output_dir(stage: StageConfig) -> None:
    """
    Checks that the output folder can be written, before anything is read.

    Raises:
        ValueError: If it, or a folder that it is in, is a file or cannot be written.
    """
    for path in (Path(stage.output_dir) / "model", *(Path(stage.output_dir) / "model").absolute().parents):
        if path.exists():
            break
    try:
        with tempfile.TemporaryDirectory(prefix=".flashsloth-", dir=path):
            pass
    except NotADirectoryError as error:
        raise ValueError(f"output_dir is {stage.output_dir}, but {path} is a file: choose another folder") from error
    except OSError as error:
        raise ValueError(
            f"output_dir is {stage.output_dir}, but {path} cannot be written ({error.strerror}): choose another folder"
        ) from error


def check_launch(stage: StageConfig) -> None:
    """
    Checks, before anything is loaded, what depends on how the run was launched and on this machine.

    Raises:
        ValueError: If the stage cannot be sharded, one process would train on several GPUs, a reporting tool is not
            installed, or the device cannot compute in the stage's dtype.
    """
    check_sharding(stage)
    if stage.n_gpu > 1:
        # The library would split tensors by their first axis: pixel_values by views, input_ids by rows.
        raise ValueError(
            f"{stage.n_gpu} GPUs are visible to one process: start one for each (torchrun --nproc_per_node "
            f"{stage.n_gpu} -m flashsloth train ...), or choose one (CUDA_VISIBLE_DEVICES=0)"
        )
    try:
        for callback in get_reporting_integration_callbacks(stage.report_to):
            callback()
    except (RuntimeError, ImportError, ValueError) as error:
        raise ValueError(f"report_to is {', '.join(stage.report_to)}: {error}") from error
    if stage.fp16 and stage.device.type == "cpu":
        raise ValueError("fp16 is set, but a CPU cannot train in float16: leave it out, or set bf16=true")
    if stage.process_index != 0:
        logging.getLogger("flashsloth").setLevel(logging.WARNING)  # the first process logs for all
    elif stage.bf16 and stage.device.type == "cpu" and not has_fast_bfloat16():
        logger.warning(
            "bf16 is set, but this CPU has no instructions for bfloat16: steps can take far longer "
            "than with bf16=false"
        )


def load_stage_processor(stage: StageConfig) -> FlashSlothProcessor:
    """
    Loads the processor of the model that a stage starts from, with the stage's `hd`.

    Raises:
        ValueError: If it is missing or damaged.
    """
    processor = load_processor(find_files(stage.model, MODEL_FILES))
    processor.image_processor.hd = stage.hd
    return processor


def prepare_training(stage: StageConfig, model: nn.Module) -> tuple[LoraConfig | None, MuonWithAdamW | None]:
    """
    Selects the parameters that are trained.

    Returns:
        The adapter that the trainer adds to the model, and the optimizer, if it is not one of TRL's.

    Raises:
        ValueError: If the settings name a module that does not exist, or that has no parameters to train.
    """
    adapter = None
    if stage.lora:
        adapter = lora_config(stage.lora, model)
    else:
        select_trainable(model, stage.trainable)
    parameters = learned_parameters(model, stage)
    by_learning_rate(parameters, stage.learning_rates)  # raises for names that do not fit
    if stage.optimizer != "muon":
        return adapter, None
    return adapter, MuonWithAdamW(parameters, stage.learning_rate, stage.weight_decay, stage.learning_rates)


@dataclass
class RunData:
    """
    The rows of a run.

    Args:
        train (`Dataset` or `IterableDataset`): What it trains on.
        fingerprint (`str`): Of all rows of `data`, those that are held out or skipped among them.
        evaluation (`Dataset`, *optional*): What it is evaluated on.
        eval_fingerprint (`str`, *optional*): Of all rows of `eval_data`, if there is one.
    """

    train: Dataset | IterableDataset
    fingerprint: str
    evaluation: Dataset | None = None
    eval_fingerprint: str | None = None


def open_data(stage: StageConfig, processor: FlashSlothProcessor, is_resumed: bool) -> RunData:
    """
    Opens and validates the data. The first process validates, and sends the rows to skip to the others.

    Raises:
        ValueError: If the data cannot be read, has broken rows that are not to be skipped, or is not the data that the
            run was started with.
    """
    with stage.main_process_first(desc="reading the data"):
        rows = load_data(stage.data, stage.seed, stage.process_index, stage.world_size)
        eval_rows = load_data(stage.eval_data, stage.seed) if stage.eval_data else None
    if isinstance(rows, IterableDataset) and stage.max_steps <= 0:
        raise ValueError("streamed data has no known number of rows: set max_steps, the number of steps to train")
    version = fingerprint(rows, stage.data)
    eval_version = None if eval_rows is None else fingerprint(eval_rows, stage.eval_data)
    if is_resumed:
        check_same_data(stage, version, eval_version)
    folder = Path(stage.output_dir)
    skipped = _rows_to_skip(stage, processor, rows, version, folder, is_resumed)
    if eval_rows is not None:
        eval_skipped = _rows_to_skip(stage, processor, eval_rows, eval_version, folder / EVAL_FOLDER, is_resumed)
        eval_rows = without(eval_rows, eval_skipped)
    if stage.eval_split is None:
        rows = rows if isinstance(rows, IterableDataset) else without(rows, skipped)
    else:
        trained, held_out = (np.setdiff1d(part, skipped) for part in hold_out(rows, stage.eval_split, stage.seed))
        if not len(trained) or not len(held_out):
            raise ValueError("all rows that are left to train on, or that are held out, are broken: repair them")
        rows, eval_rows = rows.select(trained), rows.select(held_out)
    if eval_rows is not None:
        logger.info("Evaluated on %s rows", f"{len(eval_rows):,}")
    return RunData(rows, version, eval_rows, eval_version)


def _rows_to_skip(
    stage: StageConfig,
    processor: FlashSlothProcessor,
    rows: Dataset | IterableDataset,
    version: str,
    folder: Path,
    is_resumed: bool,
) -> list[int]:
    """The numbers of the broken rows, which the first process finds; its results are kept in a folder."""
    skipped = []
    if stage.process_index == 0:
        if not is_resumed:
            (folder / SKIPPED_FILE).unlink(missing_ok=True)  # of an earlier run
        validation = DataValidation(processor, stage.max_length, stage.hd, folder)
        skipped = validation.rows_to_skip(rows, version, stage.on_broken_rows, is_resumed)
    version_of_first, skipped = broadcast_object_list([version, skipped])
    if version != version_of_first:
        raise ValueError(f"process {stage.process_index} reads other data than the first one: give all the same files")
    return skipped


def rows_to_answer(stage: StageConfig, dataset: Dataset | None) -> Dataset | None:
    """The rows whose answers an evaluation generates, if it does."""
    if not stage.eval_exact_match:
        return None
    return sample(dataset, None if stage.eval_exact_match is True else stage.eval_exact_match, stage.seed)


def make_callbacks(stage: StageConfig, data: RunData) -> list[TrainerCallback]:
    """The record of the run, and early stopping."""
    callbacks = [RunRecord(stage, data.train, data.fingerprint, data.evaluation, data.eval_fingerprint)]
    if stage.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(stage.early_stopping_patience, stage.early_stopping_threshold))
    return callbacks


def validate_data(stage: StageConfig) -> list[BrokenRow]:
    """
    Reads all rows of a stage's data, and returns the broken ones. A run of the stage does not read them again, except
    for the rows of a stream.

    Raises:
        ValueError: If the processor or the data cannot be read.
    """
    check_output_dir(stage)
    check_sources([*stage.data, *stage.eval_data])
    processor = load_stage_processor(stage)
    rows = load_data(stage.data, stage.seed)
    validation = DataValidation(processor, stage.max_length, stage.hd, stage.output_dir)
    broken_rows = validation.validate_all(rows, fingerprint(rows, stage.data))
    if stage.eval_data:
        rows = load_data(stage.eval_data, stage.seed)
        validation = DataValidation(processor, stage.max_length, stage.hd, Path(stage.output_dir) / EVAL_FOLDER)
        found = validation.validate_all(rows, fingerprint(rows, stage.eval_data))
        broken_rows += [replace(row, detail=f"of eval_data: {row.detail}") for row in found]
    return broken_rows


def train(trainer: FlashSlothTrainer, checkpoint: Path | None) -> None:
    """
    Trains from the beginning, or from a checkpoint.

    Raises:
        ValueError: If the data has not enough rows for a step.
    """
    for part, trainable, count in parameter_groups(trainer.model):
        logger.info("%-28s %13s of %13s parameters train", part, f"{trainable:,}", f"{count:,}")
    if checkpoint:
        logger.info("Resuming from %s", checkpoint)
        trainer.args.eval_on_start = False  # the run began before; early stopping would count it once more
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step > 0:
        if trainer.args.load_best_model_at_end and not trainer.state.best_global_step:
            logger.warning("There was no evaluation in %s steps: the last model is saved.", trainer.state.global_step)
        return
    if isinstance(trainer.train_dataset, IterableDataset):
        skipped_file = Path(trainer.args.output_dir) / SKIPPED_FILE
        raise ValueError(f"no step was trained: the stream has broken rows only, which {skipped_file} lists")
    raise ValueError(
        "no step was trained: the data has fewer rows than a step takes; lower global_batch_size, or leave "
        "dataloader_drop_last out"
    )


def save_result(trainer: FlashSlothTrainer, stage: StageConfig, base: Path, finished: Path) -> None:
    """
    Saves the finished model or adapter, with processor, code and provenance. All processes take part.

    Args:
        trainer (`FlashSlothTrainer`): The trainer, after its last step.
        stage (`StageConfig`): The settings of the run.
        base (`Path`): Folder of the model that the stage started from.
        finished (`Path`): Folder to write.

    Raises:
        OSError: If a file cannot be written.
    """
    is_main = stage.process_index == 0
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
                steps=stage.load_best_model_at_end and trainer.state.best_global_step or trainer.state.global_step,
                global_batch_size=stage.train_batch_size * stage.gradient_accumulation_steps * stage.world_size,
                learning_rate=stage.learning_rate,
                seed=stage.seed,
            )
    trainer.accelerator.wait_for_everyone()
