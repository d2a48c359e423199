# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The facts of a model card beside its provenance: what the files of a model folder say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from flashsloth import FlashSlothConfig, FlashSlothImageProcessor
from flashsloth.folders.json_files import one_line, read_json, read_json_list
from flashsloth.folders.model_folder import main_dtype, model_on_meta
from flashsloth.folders.tensors import Checkpoint
from flashsloth.publish.folder import CURVES_FILE, EVALUATION_FILE, RUN_RESULT, TRAINING_FILE
from flashsloth.publish.lineage import published
from flashsloth.publish.values import check_hub_id, check_url


ORIGINS = ("measured", "published")


@dataclass(frozen=True)
class ModelFacts:
    """
    What a model is.

    Args:
        config (`FlashSlothConfig`): Its architecture.
        hd (`bool`): Whether it sees pictures in high definition by default.
        tile_grid (`int`): Tiles along each side of a picture in high definition.
        num_parameters (`int`): Its parameters.
        num_bytes (`int`): Size of its weight files, in bytes.
        dtype (`str`, *optional*): What most of its weights are stored as; `None` if they are quantized.
    """

    config: FlashSlothConfig
    hd: bool
    tile_grid: int
    num_parameters: int
    num_bytes: int
    dtype: str | None

    @property
    def is_quantized(self) -> bool:
        return self.dtype is None


@dataclass(frozen=True)
class Evaluation:
    """
    A score of a model, measured or published.

    Args:
        task (`str`): What was asked of the model, in words.
        dataset_name (`str`): Name of the data.
        metric (`str`): What was counted, such as "exact_match".
        value (`float` or `int`): The score.
        origin (`str`): "measured", or "published" by others.
        dataset_repo (`str`, *optional*): Id of the data on the Hub.
        dataset_config (`str`, *optional*), dataset_split (`str`, *optional*), dataset_revision (`str`, *optional*):
            Which part and version of it.
        task_id (`str`, *optional*): Which task of a benchmark on the Hub
            (https://huggingface.co/docs/hub/eval-results).
        unit (`str`, *optional*): Of the value, such as "percent".
        n (`int`, *optional*): Number of questions.
        source_name (`str`, *optional*), source_url (`str`, *optional*): Who says so.
        command (`str`, *optional*): What repeats the measurement.
        date (`str`, *optional*): Day of the measurement, as in "2026-11-24".
    """

    task: str
    dataset_name: str
    metric: str
    value: float | int
    origin: str
    dataset_repo: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    dataset_revision: str | None = None
    task_id: str | None = None
    unit: str | None = None
    n: int | None = None
    source_name: str | None = None
    source_url: str | None = None
    command: str | None = None
    date: str | None = None


def read_model(folder: Path) -> ModelFacts:
    """
    Reads config, processor and the headers of the weights.

    Raises:
        ValueError: If the folder is no complete FlashSloth.
    """
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type != FlashSlothConfig.model_type:
        raise ValueError(
            f"{folder / 'config.json'} has model_type {model_type!r}, not {FlashSlothConfig.model_type!r}."
        )
    try:
        config = FlashSlothConfig.from_pretrained(folder)
    except StrictDataclassError as error:
        raise ValueError(f"{folder / 'config.json'} cannot be used: {one_line(error)}") from error
    try:
        image_processor = FlashSlothImageProcessor.from_pretrained(folder)
    except OSError as error:
        raise ValueError(f"{folder} has no processor: {one_line(error)}") from error
    is_quantized = "quantization_config" in read_json(folder / "config.json")
    return ModelFacts(
        config=config,
        hd=image_processor.hd,
        tile_grid=image_processor.tile_grid,
        num_parameters=model_on_meta(config).num_parameters(),
        num_bytes=sum(file.stat().st_size for file in folder.glob("model*.safetensors")),
        dtype=None if is_quantized else str(main_dtype(Checkpoint(folder))).removeprefix("torch."),
    )


def read_training(folder: Path) -> dict:
    """The record of the run that made the folder; empty if there is none."""
    file = _record(folder, TRAINING_FILE)
    return read_json(file) if file.is_file() else {}


def has_curves(folder: Path) -> bool:
    """Whether a picture of the run's curves is published with the folder."""
    return _record(folder, CURVES_FILE).is_file()


def _record(folder: Path, name: str) -> Path:
    """A file about the run that made the folder: in it, or beside it as the run left it."""
    file = folder / name
    return folder.resolve().parent / name if not file.is_file() and folder.resolve().name == RUN_RESULT else file


def read_evaluations(folder: Path) -> list[Evaluation]:
    """
    The scores of a folder's `evaluation.json`.

    Raises:
        ValueError: If a score lacks something or is malformed; the message names it.
    """
    file = folder / EVALUATION_FILE
    if not file.is_file():
        return []
    return [
        _evaluation(entry, f"{file}, score {number}") for number, entry in enumerate(read_json_list(file), start=1)
    ]


def published_evaluations(checkpoint: dict) -> list[Evaluation]:
    """The scores that were published for a checkpoint; the table they stand in gives neither metric nor unit."""
    source = published()["source"]
    return [
        Evaluation(
            task=name,
            dataset_name=name,
            metric="score",
            value=score,
            origin="published",
            source_name=source["name"],
            source_url=source["url"],
        )
        for name, score in zip(published()["benchmarks"], checkpoint["scores"], strict=bool(checkpoint["scores"]))
    ]


def _evaluation(entry: dict, where: str) -> Evaluation:
    dataset, source = _get(entry, "dataset", dict, where), _get(entry, "source", dict, where, required=False) or {}
    value = _get(entry, "value", (int, float), where)
    if not math.isfinite(value):
        raise ValueError(f"{where}: value {value!r} is no number.")
    origin = _get(entry, "origin", str, where)
    if origin not in ORIGINS:
        raise ValueError(f"{where}: origin {origin!r} must be one of {', '.join(ORIGINS)}.")
    if origin == "published" and not source:
        raise ValueError(f"{where}: a published score needs its source.")
    day = _get(entry, "date", str, where, required=False)
    if day is not None:
        try:
            date.fromisoformat(day)
        except ValueError as error:
            raise ValueError(f"{where}: date {day!r} is no date such as 2026-11-24.") from error
    repo = _get(dataset, "repo", str, where, required=False)
    return Evaluation(
        task=_get(entry, "task", str, where),
        dataset_name=_get(dataset, "name", str, where),
        metric=_get(entry, "metric", str, where),
        value=value,
        origin=origin,
        dataset_repo=None if repo is None else check_hub_id(repo, f"{where}: the dataset"),
        dataset_config=_get(dataset, "config", str, where, required=False),
        dataset_split=_get(dataset, "split", str, where, required=False),
        dataset_revision=_get(dataset, "revision", str, where, required=False),
        task_id=_get(dataset, "task_id", str, where, required=False),
        unit=_get(entry, "unit", str, where, required=False),
        n=_get(entry, "n", int, where, required=False),
        source_name=_get(source, "name", str, where) if source else None,
        source_url=check_url(_get(source, "url", str, where), f"{where}: the source") if source else None,
        command=_get(entry, "command", str, where, required=False),
        date=day,
    )


def _get(entry: Mapping, key: str, kind, where: str, required: bool = True):
    value = entry.get(key)
    if value is None and not required:
        return None
    # True is an int in Python; a str that JSON escapes made of half a character cannot be written anywhere.
    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, str) and not _is_text(value)):
        raise ValueError(f"{where}: {key!r} is {value!r}.")
    return value


def _is_text(value: str) -> bool:
    return bool(value.strip()) and not any("\ud800" <= character <= "\udfff" for character in value)
