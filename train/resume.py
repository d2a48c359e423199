# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How a run is resumed after a stop: from its last complete checkpoint, and with the settings and data of its start.

Checkpoints are folders `OUTPUT_DIR/checkpoint-STEP`. The last file written into one is `complete.json`, which lists
all others with their sizes. A folder without it, or with other files, was left behind by a kill, a power cut or a
full disk. Settings and the fingerprint of the data are in `OUTPUT_DIR/training.json`, the record of the run.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from flashsloth.folders.provenance import TRAINING_FILE
from flashsloth.train.config import OWN_FIELDS, StageConfig
from flashsloth.train.data.wording import hide_secrets, show_address
from flashsloth.train.settings import SOURCES


logger = logging.getLogger(__name__)

MARKER = "complete.json"
PREFIX = "checkpoint-"

# Fields of ours that do not decide what a stage learns. Data has a fingerprint.
NOT_DECISIVE = ("attn_implementation", "on_broken_rows", "global_batch_size")
# Fields of `trl.SFTConfig` that do. How the run is computed, logged and saved may change before it is resumed.
DECISIVE = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "average_tokens_across_devices",
    "data_seed",
    "dataloader_drop_last",
    "label_smoothing_factor",
    "learning_rate",
    "loss_type",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_length",
    "max_steps",
    "metric_for_best_model",
    "greater_is_better",
    "load_best_model_at_end",
    "neftune_noise_alpha",
    "num_train_epochs",
    "optim",
    "optim_args",
    "optim_target_modules",
    "seed",
    "shuffle_dataset",
    "train_sampling_strategy",
    "truncation_mode",
    "warmup_steps",
    "weight_decay",
)

REMEDY = "Resume it with what it was started with, or choose another output_dir."
WITHOUT_RECORD = "(If you remove the file training.json there, it is resumed without this check.)"


@contextmanager
def clear_write_errors(folder: Path) -> Iterator[None]:
    """
    Turns the errors that safetensors, torch and others raise when they write into one kind, which names the remedy.

    Args:
        folder (`Path`): The folder or file that is written; its parent holds the checkpoints.

    Raises:
        OSError: If a file cannot be written, because the disk is full or for another reason.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and "inline_container" not in str(error):  # the file writer of torch.save
            raise
        last = last_complete_checkpoint(folder.parent)
        rest = f"The last complete checkpoint is {last}" if last else "There is no complete checkpoint yet"
        raise OSError(
            f"cannot write {folder}: {error}. {rest}: make room, and start the same command again to resume the run"
        ) from error


def mark_complete(folder: Path) -> None:
    """Flushes all files of a checkpoint to the disk, then writes its marker."""
    sizes = _sizes(folder)
    for name in sizes:
        _sync(folder / name)
    unfinished = folder / f"{MARKER}.new"
    unfinished.write_text(json.dumps(sizes, indent=1))
    _sync(unfinished)
    unfinished.rename(folder / MARKER)


def what_is_missing(folder: Path) -> str | None:
    """The reason why a checkpoint is incomplete, in words; `None` if it is complete."""
    try:
        expected = json.loads((folder / MARKER).read_text())
    except FileNotFoundError:
        return f"it has no {MARKER}"
    sizes = _sizes(folder)
    for name, size in expected.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]:,} bytes instead of {size:,}"
    return None


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint of the highest step, or `None`. Incomplete ones are skipped with a warning."""
    for folder in reversed(checkpoints(output_dir)):
        missing = what_is_missing(folder)
        if missing is None:
            return folder
        logger.warning("Skipping %s, which is incomplete: %s", folder, missing)
    return None


def checkpoints(output_dir: str | Path) -> list[Path]:
    """All checkpoint folders, complete or not, by step."""
    folders = [folder for folder in Path(output_dir).glob(f"{PREFIX}*") if folder.is_dir()]
    return sorted((folder for folder in folders if _step(folder).isdecimal()), key=lambda folder: int(_step(folder)))


def rotate(output_dir: str | Path, limit: int | None, keep: str | Path | None = None) -> None:
    """
    Removes all but the last `limit` complete checkpoints, and every incomplete one.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoints.
        limit (`int`, *optional*): Nothing is removed without one.
        keep (`str` or `Path`, *optional*): A checkpoint that stays, such as the best one.
    """
    if not limit:
        return
    complete = [folder for folder in checkpoints(output_dir) if what_is_missing(folder) is None]
    kept = complete[-limit:] + ([Path(keep)] if keep else [])
    for folder in checkpoints(output_dir):
        if folder not in kept:
            remove(folder)


def remove(folder: Path) -> None:
    """Removes a checkpoint, its marker first: a kill in the middle leaves an incomplete one."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _step(folder: Path) -> str:
    return folder.name.removeprefix(PREFIX)


def _sizes(folder: Path) -> dict[str, int]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / MARKER]
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def settings_record(stage: StageConfig) -> dict[str, Any]:
    """The part of a run's record that says how it was started: our settings, TRL's, and the number of processes."""
    ours = {key: value for key, value in stage.to_dict().items() if key in OWN_FIELDS}
    trl = {key: value for key, value in stage.to_sanitized_dict().items() if key not in OWN_FIELDS}
    return {"stage": ours, "config": trl, "processes": stage.world_size}


def check_same_settings(stage: StageConfig, is_finished: bool = False) -> None:
    """
    Checks the settings of a run that is resumed, or finished, against its record. Without a record there is no check.

    Raises:
        ValueError: If the run in the output folder was started with other settings that decide what it learns.
    """
    record = _read_record(stage)
    if record is None:
        return
    before, now = _decisive(record), _decisive(json.loads(json.dumps(settings_record(stage))))
    changed = [key for key in before if key in now and before[key] != now[key]]
    if changed:
        differences = ", ".join(f"{key} was {before[key]} and is now {now[key]}" for key in changed)
        remedy = "Choose another output_dir." if is_finished else f"{REMEDY} {WITHOUT_RECORD}"
        raise ValueError(
            f"the run in {stage.output_dir} was started with other settings: {hide_secrets(differences)}. {remedy}"
        )


def check_same_data(stage: StageConfig, fingerprint: str, eval_fingerprint: str | None = None) -> None:
    """
    Checks the data of a resumed run against its record. Without a record there is no check.

    Raises:
        ValueError: If the run in the output folder was started with other rows, or evaluated on other ones.
    """
    record = _read_record(stage)
    if record is None:
        return
    before = record["data"].get("fingerprint"), record["data"].get("evaluation", {}).get("fingerprint")
    for name, first, now in zip(SOURCES, before, (fingerprint, eval_fingerprint), strict=True):
        if first != now:
            raise ValueError(
                f"the run in {stage.output_dir} was started with other {name} under these names. {REMEDY} "
                f"{WITHOUT_RECORD}"
            )


def _read_record(stage: StageConfig) -> dict[str, Any] | None:
    file = Path(stage.output_dir) / TRAINING_FILE
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, the record of the run, is damaged: {error}. {WITHOUT_RECORD}") from error


def _decisive(record: dict[str, Any]) -> dict[str, Any]:
    """
    The settings that decide what is learned. Folders may move: the last two parts of a model's path are compared, as
    most paths end in "model", and the last part of the paths of data, as its rows are compared as well.
    """
    stage, config = record["stage"], record["config"]
    settings = {key: value for key, value in stage.items() if key not in NOT_DECISIVE}
    settings["model"] = "/".join(Path(show_address(stage["model"])).parts[-2:])
    settings["trainable"] = sorted(stage["trainable"])
    for name in SOURCES:
        sources = settings.pop(name, [])  # earlier versions had no data to evaluate on
        settings[f"sources of {name}"] = len(sources)
        for index, source in enumerate(sources):
            source = source | {"path": Path(show_address(source["path"])).name}
            settings |= {f"{name}[{index}].{key}": value for key, value in source.items() if key != "image_folder"}
    settings |= {key: config[key] for key in DECISIVE if key in config}
    if config["max_steps"] > 0:
        del settings["num_train_epochs"]
    if stage.get("early_stopping_patience"):  # when it stops depends on when it is evaluated
        settings |= {key: config[key] for key in ("eval_strategy", "eval_steps")}
    rows = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * record["processes"]
    settings["rows per step"] = rows
    if any(source["streaming"] for source in stage["data"]):  # each process and each worker reads a part of a stream
        settings |= {"processes": record["processes"], "dataloader_num_workers": config["dataloader_num_workers"]}
    return settings
