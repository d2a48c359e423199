# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Where a model folder comes from: `provenance.json`, a list with an entry for each command that had a part in it, the
oldest first. The model card takes its facts from there. The file is uploaded with the model, so it holds no path of
the machine: a source is a Hub repository with its revision, or the last part of a local folder's name.
"""

import json
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path

from flashsloth.folders.json_files import read_json_list


PROVENANCE_FILE = "provenance.json"
# Other notes beside a model's files, which no program needs to load it.
TRAINING_FILE = "training.json"  # the record of its training run
CURVES_FILE = "curves.png"  # a figure of that run's curves
EVALUATION_FILE = "evaluation.json"  # its scores
PACKAGES = ("flashsloth", "torch", "transformers")
# A snapshot in the Hub's cache: models--OWNER--NAME/snapshots/COMMIT.
SNAPSHOT = re.compile(r"models--(?P<repo>.+)/snapshots/(?P<revision>[0-9a-f]{40})$")


def describe_source(role: str, name) -> dict[str, str]:
    """
    A source of a model, as an entry holds it.

    Args:
        role (`str`): What it was used for, such as "language_model" or "base".
        name (`str` or `os.PathLike`): The local folder that was read, or the name of a Hub repository. The repository
            and revision of a folder in the Hub's cache are in its path.

    Returns:
        `dict` with "role", and either "repo", with its "revision" where that is known, or "folder".
    """
    folder = Path(name).absolute()
    if not folder.is_dir():
        return {"role": role, "repo": str(name)}
    snapshot = SNAPSHOT.search(folder.as_posix())
    if snapshot is None:
        return {"role": role, "folder": folder.name}
    return {"role": role, "repo": snapshot["repo"].replace("--", "/"), "revision": snapshot["revision"]}


def read_provenance(folder) -> list[dict]:
    """
    The entries of a folder; empty if there is no such file.

    Raises:
        ValueError: If the file is damaged.
    """
    file = Path(folder) / PROVENANCE_FILE
    return read_json_list(file) if file.is_file() else []


def write_provenance(folder, command: str, sources: list[dict[str, str]], before: list[dict], **details) -> None:
    """
    Writes the file of a new folder: the entries of its source, and one for the command that made it.

    Args:
        folder (`str` or `os.PathLike`): The new model folder.
        command (`str`): The command that made it: "compose", "convert", "train", "merge" or "quantize".
        sources (`list[dict]`): What it was made of, each by [`describe_source`].
        before (`list[dict]`): The entries of its source, by [`read_provenance`].
        details: Settings that matter to users of the model; no paths.
    """
    entry = {
        "command": command,
        "date": date.today().isoformat(),
        "sources": sources,
        **details,
        "versions": {package: version(package) for package in PACKAGES},
    }
    text = json.dumps([*before, entry], indent=2, ensure_ascii=False)
    (Path(folder) / PROVENANCE_FILE).write_text(text + "\n", encoding="utf-8")
