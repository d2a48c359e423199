# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The notes in a model folder: what the model is made from (provenance.json), how well it answers (evaluation.json), and
the settings of the run that made it (training.json). Each is checked, as they end up in a model card, and read without
what is private (see `private.py`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from flashsloth.folders.json_files import read_json, read_json_list
from flashsloth.folders.provenance import EVALUATION_FILE, PROVENANCE_FILE, read_provenance
from flashsloth.publish.private import without_private
from flashsloth.publish.values import check_commit, check_hub_id, check_url


COMMANDS = ("compose", "convert", "train", "merge", "quantize")
LEARNING = {"train", "merge"}
NO_BASES = {"adapter", "tokenizer"}  # roles of sources whose weights are not the model's own
ORIGINS = ("measured", "published")


@cache
def published() -> dict:
    """The published checkpoints, their scores and the licenses of the models that they are made from."""
    return read_json(Path(__file__).parent / "published.json")


# Provenance


@dataclass(frozen=True)
class Lineage:
    """
    What a model is made from.

    Args:
        entries (`list[dict]`): The entries of its provenance, the oldest first.
        base_models (`tuple[str, ...]`): Ids on the Hub of the nearest models that it is made from, as far as known.
        relation (`str`, *optional*): How it relates to them, in the Hub's words; `None` if the Hub has no word for it,
            or if it is not known.
        knows_all_bases (`bool`): Whether `base_models` are all of its base models.
    """

    entries: list[dict]
    base_models: tuple[str, ...]
    relation: str | None
    knows_all_bases: bool

    @property
    def commands(self) -> list[str]:
        return [entry["command"] for entry in self.entries]

    @property
    def is_untrained(self) -> bool:
        """Whether its new modules still hold random weights."""
        return "compose" in self.commands and not LEARNING.intersection(self.commands)

    @property
    def is_from_scratch(self) -> bool:
        """Whether all of it was trained from random weights in the runs of `entries`."""
        num_first = sum(entry["command"] == "train" and not entry["sources"] for entry in self.entries)
        num_parts = 2 if "compose" in self.commands else 1  # a language model and a vision tower
        return num_first >= num_parts and not self.base_models

    @property
    def published(self) -> dict | None:
        """The published checkpoint whose weights these are, bit for bit."""
        if set(self.commands) != {"convert"} or len(self.base_models) != 1:
            return None
        return published()["checkpoints"].get(self.base_models[0])


def read_lineage(folder: Path, base_models: Sequence[str] = ()) -> Lineage:
    """
    Reads the provenance of a model folder.

    Args:
        folder (`Path`): The model folder.
        base_models (`Sequence[str]`, *optional*): Ids on the Hub of the models that the last command started from, if
            the provenance names a local folder only.

    Returns:
        [`Lineage`]

    Raises:
        ValueError: If the provenance is damaged, or a name is not an id on the Hub.
    """
    entries = without_private(read_provenance(folder))
    for number, entry in enumerate(entries, start=1):
        _check_provenance(entry, f"Entry {number} of {PROVENANCE_FILE}")
    named = tuple(check_hub_id(name, "The base model") for name in base_models)
    last_known = _hub_bases(entries[-1]) if entries else ()
    if named and last_known and set(named) != set(last_known):
        raise ValueError(
            f"The base models are {', '.join(last_known)}, as {PROVENANCE_FILE} says, and not {', '.join(named)}. "
            "Leave --base-model out."
        )
    if named:
        # Several models are those that the model was composed of; a single one is what the last command started from.
        commands = {entry["command"] for entry in (entries if len(named) > 1 else entries[-1:])}
        return Lineage(entries, named, _relation(commands), knows_all_bases=True)
    commands = set()
    for entry in reversed(entries):
        commands.add(entry["command"])
        known = _hub_bases(entry)
        if known:
            num_bases = sum(source.get("role") not in NO_BASES for source in entry["sources"])
            return Lineage(entries, known, _relation(commands), knows_all_bases=len(known) == num_bases)
    return Lineage(entries, (), None, knows_all_bases=False)


def _hub_bases(entry: dict) -> tuple[str, ...]:
    """The models on the Hub that a command made its model from."""
    return tuple(
        source["repo"] for source in entry["sources"] if "repo" in source and source.get("role") not in NO_BASES
    )


def _relation(commands: set[str]) -> str | None:
    """
    One of the Hub's words; "adapter" is never true of a whole model. Two backbones that were joined are a "merge",
    trained or not, as others name it too (https://huggingface.co/nvidia/Eagle2-1B). There is no word for a checkpoint
    that was only converted: it is the same model.
    """
    if "compose" in commands:
        return "merge"
    if LEARNING & commands:
        return "finetune"
    return "quantized" if "quantize" in commands else None


def _check_provenance(entry: dict, where: str) -> None:
    if entry.get("command") not in COMMANDS:
        raise ValueError(f"{where} has the command {entry.get('command')!r}; it must be one of {', '.join(COMMANDS)}.")
    sources = entry.get("sources")
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        raise ValueError(f"{where} has the sources {sources!r}; they must be a list of objects.")
    names = {"data": entry.get("data", []), "trainable": entry.get("trainable", [])}
    if isinstance(names["trainable"], dict):  # settings of an adapter
        del names["trainable"]
    for key, value in names.items():
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{where} has {key!r} {value!r}; it must be a list of names.")
    for source in sources:
        if not isinstance(source.get("role", ""), str):
            raise ValueError(f"{where} has the role {source['role']!r}; it must be text.")
        if "repo" in source:
            check_hub_id(source["repo"], f"{where}: the source")
        elif not isinstance(source.get("folder"), str):
            raise ValueError(f"{where} has the source {source!r}, which names neither 'repo' nor 'folder'.")
        if "revision" in source:
            check_commit(source["revision"], f"{where}: the revision")


# Evaluations


@dataclass(frozen=True)
class Evaluation:
    """
    A score of a model, measured or published.

    Args:
        task (`str`): What the model was asked to do, in words.
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
        source_name (`str`, *optional*), source_url (`str`, *optional*): Who reports the score.
        command (`str`, *optional*): Repeats the measurement.
        date (`str`, *optional*): Day of the measurement, such as "2026-11-24".
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


def read_evaluations(folder: Path) -> list[Evaluation]:
    """
    The scores of a folder's `evaluation.json`.

    Raises:
        ValueError: If a score is incomplete or malformed; the message names it.
    """
    file = folder / EVALUATION_FILE
    if not file.is_file():
        return []
    entries = without_private(read_json_list(file))
    return [_evaluation(entry, f"{file}, score {number}") for number, entry in enumerate(entries, 1)]


def published_evaluations(lineage: Lineage) -> list[Evaluation]:
    """The published scores, if the model is a published checkpoint. Their table gives neither metric nor unit."""
    if not lineage.published or not lineage.published["scores"]:
        return []
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
        for name, score in zip(published()["benchmarks"], lineage.published["scores"], strict=True)
    ]


def _evaluation(entry: dict, where: str) -> Evaluation:
    dataset, source = _get(entry, "dataset", dict, where), _get(entry, "source", dict, where, required=False) or {}
    value = _get(entry, "value", (int, float), where)
    if not math.isfinite(value):
        raise ValueError(f"{where}: value {value!r} is not a finite number.")
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
            raise ValueError(f"{where}: {day!r} is not a date such as 2026-11-24.") from error
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
    # In Python True is an int. Half of a surrogate pair, which JSON can escape, cannot be written to any file.
    is_text = not isinstance(value, str) or (value.strip() and not re.search(r"[\ud800-\udfff]", value))
    if not isinstance(value, kind) or isinstance(value, bool) or not is_text:
        raise ValueError(f"{where}: {key!r} is {value!r}.")
    return value


# The record of the run


def read_record(file: Path) -> dict:
    """The record of a training run, without the paths of the machine that it ran on, and without secrets."""
    return without_private(read_json(file))
