# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What `provenance.json` says of a model: what it is made from, whether it has learned anything, and how, in words."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flashsloth.convert.provenance import PROVENANCE_FILE, read_provenance
from flashsloth.convert.tensors import read_json
from flashsloth.publish.values import check_commit, check_hub_id, last_part, link, listed, markdown


PUBLISHED_FILE = Path(__file__).parent / "published.json"
COMMANDS = ("compose", "convert", "train", "merge", "quantize")
LEARNING = {"train", "merge"}
ROLES = {"language_model": "language model", "vision_model": "vision model", "adapter": "adapter"}
# Settings of a command that its sentence gives in brackets, and their names there.
SETTINGS = {"learning_rate": "learning rate", "weights": "weights", "seed": "seed"}


@cache
def published() -> dict:
    """The published checkpoints, their scores and the licenses of what they were made of, with their sources."""
    return read_json(PUBLISHED_FILE)


@dataclass(frozen=True)
class Lineage:
    """
    Where a model comes from.

    Args:
        entries (`list[dict]`): The checked entries of its provenance, the oldest first.
        base_models (`tuple[str, ...]`): The nearest models on the Hub that it is made of, as far as known.
        relation (`str`, *optional*): How it relates to them, as the Hub says it; `None` if the Hub has no word for
            it, or if it is not known.
    """

    entries: list[dict]
    base_models: tuple[str, ...]
    relation: str | None

    @property
    def commands(self) -> list[str]:
        return [entry["command"] for entry in self.entries]

    @property
    def is_untrained(self) -> bool:
        """Whether its new modules hold random numbers still."""
        return "compose" in self.commands and not LEARNING.intersection(self.commands)

    @property
    def is_from_nothing(self) -> bool:
        """Whether every part of it was trained in the runs that `entries` list, from random numbers."""
        first = [entry for entry in self.entries if entry["command"] == "train" and not entry["sources"]]
        return bool(first) and not self.base_models

    @property
    def published(self) -> dict | None:
        """The published checkpoint whose weights these are, bit for bit."""
        if set(self.commands) != {"convert"} or len(self.base_models) != 1:
            return None
        return published()["checkpoints"].get(self.base_models[0])


def read_lineage(folder, base_models=()) -> Lineage:
    """
    Reads the provenance of a folder.

    Args:
        folder (`str` or `os.PathLike`): The model folder.
        base_models (`Sequence[str]`, *optional*): What the last command started from, by its names on the Hub, where
            the provenance knows a local folder only.

    Returns:
        [`Lineage`]

    Raises:
        ValueError: If the provenance is damaged, or a name is no id on the Hub.
    """
    entries = [_check_entry(entry, number) for number, entry in enumerate(read_provenance(folder), start=1)]
    if base_models:
        names = tuple(check_hub_id(name, "The base model") for name in base_models)
        crossed = entries if len(names) > 1 else entries[-1:]
        return Lineage(entries, names, _relation({entry["command"] for entry in crossed}, len(names)))
    crossed = set()
    for entry in reversed(entries):
        crossed.add(entry["command"])
        names = tuple(
            source["repo"] for source in entry["sources"] if "repo" in source and source.get("role") != "adapter"
        )
        if names:
            return Lineage(entries, names, _relation(crossed, len(names)))
    return Lineage(entries, (), None)


def _relation(commands: set[str], num_bases: int) -> str | None:
    """
    One of the Hub's four words, of which "adapter" never holds for a whole model. Two backbones that were joined are a
    "merge", trained or not, as others name it too (https://huggingface.co/nvidia/Eagle2-1B). A checkpoint that was
    only converted is none of the four: it is the same model.
    """
    if "compose" in commands:
        return "merge" if num_bases > 1 else "finetune"
    if LEARNING & commands:
        return "finetune"
    return "quantized" if "quantize" in commands else None


def _check_entry(entry: dict, number: int) -> dict:
    where = f"Entry {number} of {PROVENANCE_FILE}"
    if entry.get("command") not in COMMANDS:
        raise ValueError(f"{where} has the command {entry.get('command')!r}; it must be one of {', '.join(COMMANDS)}.")
    sources = entry.get("sources")
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        raise ValueError(f"{where} has the sources {sources!r}; they must be a list of objects.")
    for source in sources:
        if "repo" in source:
            check_hub_id(source["repo"], f"{where}: the source")
        elif not isinstance(source.get("folder"), str):
            raise ValueError(f"{where} has the source {source!r}, which names neither 'repo' nor 'folder'.")
        if "revision" in source:
            check_commit(source["revision"], f"{where}: the revision")
    return entry


def describe(entry: dict) -> str:
    """One step of a model's making, as a sentence of Markdown. What is not known is left out."""
    sources = " and ".join(_describe_source(source) for source in entry["sources"])
    match entry["command"]:
        case "compose":
            text = f"composed of {sources}; every other weight initialized at random"
        case "convert":
            text = f"converted from {sources}, with the weights as they were"
        case "train":
            text = _describe_training(entry) + (f", from {sources}" if sources else ", from random weights")
        case "merge":
            text = f"merged from {sources}"
        case "quantize":
            text = f"quantized from {sources}"
    details = {key: entry[key] for key in SETTINGS if key in entry}
    if details:
        text += f" ({', '.join(f'{SETTINGS[key]} {markdown(value)}' for key, value in details.items())})"
    text += f". {markdown(entry['note'])}" if "note" in entry else "."
    return f"{markdown(entry['date'])}: {text}" if "date" in entry else text[0].upper() + text[1:]


def _describe_source(source: dict) -> str:
    role = ROLES.get(source.get("role"), "")
    if "repo" not in source:
        return f"{role} {markdown(last_part(source['folder']))}".strip()
    revision = f" at revision {source['revision'][:7]}" if "revision" in source else ""
    return f"{role} {link(source['repo'])}{revision}".strip()


def _describe_training(entry: dict) -> str:
    text = "trained"
    trainable = entry.get("trainable")
    if isinstance(trainable, dict):
        text += " by an adapter"
    elif trainable:
        text += f" {listed(trainable)}"
    if entry.get("hd"):
        text += " in high definition"
    if "steps" in entry:
        text += f" for {markdown(entry['steps'])} steps"
        text += f" of {markdown(entry['global_batch_size'])} rows" if "global_batch_size" in entry else ""
    return text + (f" on {listed(entry['data'])}" if entry.get("data") else "")
