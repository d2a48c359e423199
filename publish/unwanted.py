# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Files that are not uploaded, with a model or with a Space, and those that are uploaded without a part of theirs."""

import json
from pathlib import Path

from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
)

from flashsloth.folders.json_files import read_json, read_json_list
from flashsloth.folders.provenance import EVALUATION_FILE, PROVENANCE_FILE, TRAINING_FILE
from flashsloth.publish.private import without_private


AUTO_MAP_FILES = (CONFIG_NAME, PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, TOKENIZER_CONFIG_FILE)
# Files of settings, which may name a path; the words of a tokenizer may only look like one.
SETTINGS = (*AUTO_MAP_FILES, GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME)
# Notes, which are uploaded without what is private, as is the config of a published checkpoint within config.json.
CLEANED = (PROVENANCE_FILE, EVALUATION_FILE, TRAINING_FILE)
ORIGINAL_CONFIG = "original_config"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
LEFTOVERS = (".new", ".tmp", ".temp", ".part", ".partial", ".incomplete", ".lock", ".swp", "~")


def leave_out_what_is_private(files: dict[str, Path | bytes]) -> None:
    """Replaces a file by its content without paths of this machine and secrets, if it has any."""
    for name in set(files).intersection((CONFIG_NAME, *CLEANED)):
        read = read_json_list if name in (PROVENANCE_FILE, EVALUATION_FILE) else read_json
        content = read(files[name])
        private = (ORIGINAL_CONFIG,) if name == CONFIG_NAME else content
        if isinstance(content, list):
            cleaned = without_private(content)
        else:
            cleaned = content | {key: without_private(content[key]) for key in private if key in content}
        if cleaned != content:
            files[name] = (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()
