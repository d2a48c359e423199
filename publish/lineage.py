# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What `provenance.json` says of a model: what it is made from, whether it has learned anything, and how, in words."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flashsloth.folders.json_files import read_json
from flashsloth.folders.provenance import PROVENANCE_FILE, read_provenance
from flashsloth.publish.values import check_commit, check_hub_id, code, last_part, link, listed, markdown


PUBLISHED_FILE = Path(__file__).parent / "published.json"
COMMANDS = ("compose", "convert", "train", "merge", "quantize")
LEARNING = {"train", "merge"}
ROLES = {
    "language_model": "language model",
    "vision_model": "vision model",
    "tokenizer": "tokenizer",
    "adapter": "adapter",
    "checkpoint": "checkpoint",
}
NO_BASES = {"adapter", "tokenizer"}  # roles of what a model is not made of, but with
# Settings of a command that its sentence gives in brackets, and their names there.
SETTINGS = {"learning_rate": "learning rate", "group_size": "group size", "seed": "seed"}


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
        knows_all_bases (`bool`): Whether `base_models` are all that it is made of.
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
        """Whether its new modules hold random numbers still."""
        return "compose" in self.commands and not LEARNING.intersection(self.commands)

    @property
    def is_from_nothing(self) -> bool:
        """Whether every part of it was trained in the runs that `entries` list, from random numbers."""
        num_first = sum(entry["command"] == "train" and not entry["sources"] for entry in self.entries)
        num_parts = 2 if "compose" in self.commands else 1  # a language model and a vision tower
        return num_first >= num_parts and not self.base_models

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
    named = tuple(check_hub_id(name, "The base model") for name in base_models)
    last_known = _hub_bases(entries[-1]) if entries else ()
    if named and last_known and set(named) != set(last_known):
        raise ValueError(
            f"The base models are {', '.join(last_known)}, as {PROVENANCE_FILE} says, and not {', '.join(named)}. "
            "Leave --base-model out."
        )
    if named:
        # What the last command started from; several are what the model was composed of.
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
    """The models on the Hub that a command made its model of."""
    return tuple(
        source["repo"] for source in entry["sources"] if "repo" in source and source.get("role") not in NO_BASES
    )


def _relation(commands: set[str]) -> str | None:
    """
    One of the Hub's four words, of which "adapter" never holds for a whole model. Two backbones that were joined are a
    "merge", trained or not, as others name it too (https://huggingface.co/nvidia/Eagle2-1B). A checkpoint that was
    only converted is none of the four: it is the same model.
    """
    if "compose" in commands:
        return "merge"
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
    trainable = entry.get("trainable", [])
    for key, names in (
        ("data", entry.get("data", [])),
        ("trainable", [] if isinstance(trainable, dict) else trainable),
    ):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{where} has {key!r} {names!r}; it must be a list of names.")
    for source in sources:
        if not isinstance(source.get("role", ""), str):
            raise ValueError(f"{where} has the role {source['role']!r}; it must be a word.")
        if "repo" in source:
            check_hub_id(source["repo"], f"{where}: the source")
        elif not isinstance(source.get("folder"), str):
            raise ValueError(f"{where} has the source {source!r}, which names neither 'repo' nor 'folder'.")
        if "revision" in source:
            check_commit(source["revision"], f"{where}: the revision")
    return entry


def describe(lineage: Lineage) -> list[str]:
    """The steps of a model's making, a sentence of Markdown each. What is not known is left out."""
    return [_describe(entry, is_first=number == 0) for number, entry in enumerate(lineage.entries)]


def _describe(entry: dict, is_first: bool) -> str:
    # A local folder that a step goes on from is what the step before made, if there is one.
    shown = [source for source in entry["sources"] if "repo" in source or is_first or entry["command"] == "compose"]
    sources = " and ".join(_describe_source(source) for source in shown)
    of, from_ = (f" of {sources}", f" from {sources}") if sources else ("", "")
    match entry["command"]:
        case "compose":
            text = f"composed{of}, with random numbers for every other weight"
        case "convert":
            text = f"converted{from_}, with the weights as they were"
        case "train":
            text = _describe_training(entry, from_ if entry["sources"] else " from random weights")
        case "merge":
            text = f"an adapter merged{from_}"
        case "quantize":
            kind = f" to {markdown(entry['weights'])}" if "weights" in entry else ""
            text = f"weights of the decoder's layers quantized{kind}{from_}"
    details = [f"{name} {markdown(entry[key])}" for key, name in SETTINGS.items() if key in entry]
    text += f" ({', '.join(details)})." if details else "."
    if "note" in entry:
        text += f" {markdown(entry['note'])}"
    return f"{markdown(entry['date'])}: {text}" if "date" in entry else text[0].upper() + text[1:]


def _describe_source(source: dict) -> str:
    role = ROLES.get(source.get("role"), "model")
    if "repo" not in source:
        return f"the local {role} {markdown(last_part(source['folder']))}"
    revision = f" at revision {source['revision'][:7]}" if "revision" in source else ""
    return f"the {role} {link(source['repo'])}{revision}"


def _describe_training(entry: dict, from_: str) -> str:
    trainable = entry.get("trainable", [])
    what = "an adapter" if isinstance(trainable, dict) else ", ".join(code(name) for name in trainable)
    text = (
        " ".join(part for part in ("trained", what, "in high definition" if entry.get("hd") else "") if part) + from_
    )
    if entry.get("data"):
        text += f" on {listed(entry['data'])}"
    if "steps" in entry:
        text += f", for {_number(entry['steps'])} steps"
        text += f" of {_number(entry['global_batch_size'])} rows" if "global_batch_size" in entry else ""
    return text


def _number(value) -> str:
    return f"{value:,}" if isinstance(value, int) else markdown(value)
