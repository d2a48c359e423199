# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What kind of model a folder holds."""

from pathlib import Path

from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from flashsloth import FlashSlothConfig
from flashsloth.folders.config_file import read_config_file
from flashsloth.folders.git_lfs import check_is_fetched
from flashsloth.folders.new_folder import UNFINISHED_NAME


RUN_RESULT = "model"  # in a training run's OUTPUT_DIR; the run's training.json and curves.png are beside it


def check_is_flashsloth(folder: Path) -> None:
    """
    Checks what kind of model a folder holds, before anything is built from it.

    Raises:
        ValueError: If it is an adapter, unfinished or not fetched, has no config, or is another model than a
            FlashSloth.
    """
    if UNFINISHED_NAME.search(folder.resolve().name):
        raise ValueError(f"{folder} is left over from an interrupted command. Remove it and run the command again.")
    check_is_fetched(folder)
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        raise ValueError(
            f"{folder} is an adapter: merge it first (flashsloth merge {folder} DST), and use the result."
        )
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} holds no model: {folder / CONFIG_NAME} does not exist. {_what_is_inside(folder)}")
    model_type = read_config_file(folder / CONFIG_NAME).get("model_type")
    if model_type != FlashSlothConfig.model_type:
        raise ValueError(
            f"{folder} is a model of type {model_type!r}, not a FlashSloth. `flashsloth convert` makes one of a "
            "checkpoint in the published layout, `flashsloth compose` of a language model and a SigLIP."
        )


def _what_is_inside(folder: Path) -> str:
    """What to do about a folder that holds no model itself: the result of a run is in a folder of its OUTPUT_DIR."""
    inside = [file for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME) for file in sorted(folder.glob(f"*/{name}"))]
    inside.sort(key=lambda file: file.parent.name != RUN_RESULT)  # before checkpoints
    if not inside:
        return "Name the folder that was saved."
    found = inside[0].parent
    if inside[0].name == ADAPTER_CONFIG_NAME:
        return f"{found} is an adapter: merge it first (flashsloth merge {found} DST), and use the result."
    return f"Name the folder in it: {found}"
