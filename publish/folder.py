# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What of a model folder is published: the files that `save_pretrained` of model and processor write, and what this
library notes beside them. A folder that holds anything else, or lacks something, is refused: what is published by
mistake stays in the repository's history.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from huggingface_hub.constants import REPOCARD_NAME
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.tokenization_utils_base import (
    ADDED_TOKENS_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
    TOKENIZER_CONFIG_FILE,
)
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CHAT_TEMPLATE_FILE,
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

import flashsloth
from flashsloth.folders.json_files import one_line, read_json, read_json_list
from flashsloth.folders.provenance import PROVENANCE_FILE
from flashsloth.folders.safetensors_header import check_header
from flashsloth.folders.tensors import read_weight_map


EVALUATION_FILE = "evaluation.json"
TRAINING_FILE = "training.json"
CURVES_FILE = "curves.png"
TRAINER_STATE_FILE = "trainer_state.json"
RUN_RESULT = "model"  # of a training run's OUTPUT_DIR; the record of the run stands beside it

REQUIRED = (CONFIG_NAME, PROCESSOR_NAME, FULL_TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, CHAT_TEMPLATE_FILE)
OPTIONAL = (GENERATION_CONFIG_NAME, IMAGE_PROCESSOR_NAME, SPECIAL_TOKENS_MAP_FILE, ADDED_TOKENS_FILE)
RECORDS = (PROVENANCE_FILE, EVALUATION_FILE, TRAINING_FILE, CURVES_FILE)

# The classes through which a stranger loads the model, and the file whose auto_map says in which code they are.
AUTO_CLASSES = {
    "AutoConfig": CONFIG_NAME,
    "AutoModelForCausalLM": CONFIG_NAME,
    "AutoModelForImageTextToText": CONFIG_NAME,
    "AutoProcessor": PROCESSOR_NAME,
}

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
LEFTOVERS = (".new", ".tmp", ".temp", ".part", ".partial", ".incomplete", ".lock", ".swp", "~")
UNFINISHED_FOLDER = re.compile(r"\.incomplete-[0-9a-f]{8}$")  # see convert.folders.new_folder
CHECKPOINT_FOLDER = re.compile(r"checkpoint-\d+$")
# An absolute path within a sentence; not a URL's. Its last part is kept.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:<>|]+[/\\])+(?=[^\s/\\'\",;:<>|])")


def publishable_files(folder, keep_card: bool = False) -> dict[str, Path | bytes]:
    """
    Checks a model folder and says what of it is published.

    Args:
        folder (`str` or `os.PathLike`): The folder.
        keep_card (`bool`, *optional*, defaults to `False`): Whether a README.md of the folder is published.

    Returns:
        `dict[str, Path | bytes]`: For each name in the repository the file, or its content where that is made.

    Raises:
        ValueError: If the folder is incomplete, damaged, or holds what is not to be published; all of it is named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name one that compose, convert, train, merge or quantize wrote.")
    _check_kind(folder)
    code, problems = _code_files(folder)
    weights, more_problems = _weight_files(folder)
    problems += more_problems
    problems += [f"{name} is missing: save the processor too" for name in REQUIRED if not (folder / name).is_file()]
    expected = {*REQUIRED, *OPTIONAL, *RECORDS, *_vocabulary_files(folder), *code, *weights, REPOCARD_NAME}
    files: dict[str, Path | bytes] = {}
    for path in sorted(folder.iterdir()):
        problem = _what_is_wrong(path, expected)
        if problem:
            problems.append(f"{path.name} {problem}")
        elif path.name != REPOCARD_NAME or keep_card:
            files[path.name] = path
    if (folder / REPOCARD_NAME).is_file() and not keep_card:
        problems.append(
            f"{REPOCARD_NAME} would be replaced by the generated model card: pass --keep-card to publish it as it is, "
            "or remove it"
        )
    files.update(_records(folder, files))
    if problems:
        raise ValueError(f"{folder} cannot be published: {'; '.join(dict.fromkeys(problems))}.")
    return files


def is_model_file(name: str) -> bool:
    """Whether a file of a repository has a name that saved models use, so that a push without it removes it."""
    is_weights = re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?", name) is not None
    return is_weights or name in {*REQUIRED, *OPTIONAL, *RECORDS, *_own_code()}


def custom_code(files: dict[str, Path | bytes]) -> list[str]:
    """The code files that are not this version's own."""
    own = _own_code()
    return [
        name
        for name, path in files.items()
        if name.endswith(".py") and (name not in own or path.read_bytes() != own[name].read_bytes())
    ]


def _own_code() -> dict[str, Path]:
    return {path.name: path for path in Path(flashsloth.__file__).parent.glob("*_flashsloth.py")}


def _check_kind(folder: Path) -> None:
    """Raises if the folder is something else than a model of ours."""
    if UNFINISHED_FOLDER.search(folder.resolve().name):
        raise ValueError(f"{folder} is what an interrupted command left behind: remove it and run the command again.")
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        raise ValueError(
            f"{folder} is an adapter, which does not work by itself: make it a complete model first "
            f"(flashsloth merge {folder} DST) and push that."
        )
    is_broken_checkpoint = CHECKPOINT_FOLDER.match(folder.resolve().name) and not (folder / CONFIG_NAME).is_file()
    if is_broken_checkpoint or (folder / TRAINER_STATE_FILE).is_file():
        raise ValueError(
            f"{folder} is a checkpoint of a training run, whose optimizer state and settings are no part of a model: "
            "push the finished OUTPUT_DIR/model, or load the checkpoint and save model and processor to a new folder."
        )
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} holds no model: {CONFIG_NAME} is missing.")
    model_type = read_json(folder / CONFIG_NAME).get("model_type")
    if model_type != "flashsloth":
        raise ValueError(
            f"{folder} is a model of type {model_type!r}, not a FlashSloth; a checkpoint in the published layout is "
            "made one by `flashsloth convert`."
        )


def _what_is_wrong(path: Path, expected: set[str]) -> str | None:
    """Why an entry of the folder is not published; `None` if it is."""
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        return "is a link that points outside the folder: put the file itself there"
    if path.is_dir():
        return "is a folder, which save_pretrained does not write: remove it"
    if not path.is_file():
        return "is no file: remove it"
    if path.suffix in PICKLES:
        return (
            "may hold pickled objects, which can run code where they are loaded: remove it (weights are safetensors)"
        )
    if path.name.endswith(LEFTOVERS):
        return "is what an interrupted write left behind: save the model again, or remove it"
    if path.name not in expected:
        return "is a file that save_pretrained did not write: remove it"
    if path.stat().st_size == 0:
        return "is empty: save the model again"
    return None


def _code_files(folder: Path) -> tuple[set[str], list[str]]:
    """The names of all code that the folder's auto_maps need, and what is wrong with them."""
    modules, problems, missing = {}, [], dict(AUTO_CLASSES)
    for file_name in (CONFIG_NAME, PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, TOKENIZER_CONFIG_FILE):
        if not (folder / file_name).is_file():
            continue
        for auto_class, reference in _auto_map_entries(read_json(folder / file_name)):
            if "--" in reference:
                problems.append(f"{file_name} takes {auto_class} from another repository ({reference}): put it here")
                continue
            modules[f"{reference.rpartition('.')[0]}.py"] = file_name
            if missing.get(auto_class) == file_name:
                del missing[auto_class]
    problems += [
        f"{file_name} names no code for {auto_class} in its auto_map: save the model again with this library"
        for auto_class, file_name in missing.items()
    ]
    names = set()
    for module, named_by in modules.items():
        if Path(module).name != module or not (folder / module).is_file():
            problems.append(f"{module}, which {named_by} names, is missing: save the model again")
            continue
        names.add(module)
        try:
            names.update(Path(file).name for file in get_relative_import_files(folder / module))
        except FileNotFoundError as error:
            problems.append(f"{Path(error.filename).name}, which {module} imports, is missing: save the model again")
        except UnicodeDecodeError as error:
            problems.append(f"{module} is no Python text ({error})")
    return names, problems


def _auto_map_entries(config) -> Iterator[tuple[str, str]]:
    """Auto class and `module.Class` of every auto_map, at any depth: a processor's config holds those of its parts."""
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key == "auto_map" and isinstance(value, dict):
            for auto_class, references in value.items():
                # A tokenizer's are two, either of which may be missing.
                for reference in references if isinstance(references, list) else [references]:
                    if reference is not None:
                        yield auto_class, str(reference)
        else:
            yield from _auto_map_entries(value)


def _weight_files(folder: Path) -> tuple[set[str], list[str]]:
    """The names of the files that hold the weights, and what is wrong with them."""
    is_single, is_sharded = (folder / SAFE_WEIGHTS_NAME).is_file(), (folder / SAFE_WEIGHTS_INDEX_NAME).is_file()
    if is_single and is_sharded:
        problem = f"weights are there twice, as {SAFE_WEIGHTS_NAME} and as {SAFE_WEIGHTS_INDEX_NAME}: remove one"
        return {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME}, [problem]
    if not is_single and not is_sharded:
        return set(), [f"weights are missing: neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME} is there"]
    weight_map = read_weight_map(folder / SAFE_WEIGHTS_INDEX_NAME) if is_sharded else {}
    shards = sorted(set(weight_map.values())) or [SAFE_WEIGHTS_NAME]
    problems = []
    for shard in shards:
        if not (folder / shard).is_file():
            problems.append(f"{shard}, which {SAFE_WEIGHTS_INDEX_NAME} names, is missing: save the model again")
            continue
        try:
            check_header(folder / shard)
            with safe_open(folder / shard, framework="pt") as opened:
                held = set(opened.keys())
        except (ValueError, SafetensorError) as error:
            problems.append(f"{one_line(error).rstrip('.')}, or save the model again")
            continue
        absent = [name for name, file_name in weight_map.items() if file_name == shard and name not in held]
        if absent:
            problems.append(
                f"{shard} lacks {len(absent)} tensors that {SAFE_WEIGHTS_INDEX_NAME} lists, such as {absent[0]}: save "
                "the model again"
            )
    return {*shards, *([SAFE_WEIGHTS_INDEX_NAME] if is_sharded else [])}, problems


def _vocabulary_files(folder: Path) -> set[str]:
    """The files beside tokenizer.json that the folder's class of tokenizer saves, such as vocab.json."""
    if not (folder / TOKENIZER_CONFIG_FILE).is_file():
        return set()
    class_name = read_json(folder / TOKENIZER_CONFIG_FILE).get("tokenizer_class")
    tokenizer_class = tokenizer_class_from_name(class_name) if isinstance(class_name, str) else None
    return set(tokenizer_class.vocab_files_names.values()) if tokenizer_class else set()


def _records(folder: Path, files: dict[str, Path | bytes]) -> dict[str, Path | bytes]:
    """What is noted about the model, checked, and without the paths of the machine that it was trained on."""
    records: dict[str, Path | bytes] = {name: files[name] for name in RECORDS if name in files}
    if folder.resolve().name == RUN_RESULT:
        for name in (TRAINING_FILE, CURVES_FILE):
            beside = folder.resolve().parent / name
            if name not in records and beside.is_file():
                records[name] = beside
    for name in (PROVENANCE_FILE, EVALUATION_FILE):
        if name in records:
            read_json_list(folder / name)
    if TRAINING_FILE in records:
        record = _without_paths(read_json(records[TRAINING_FILE]))
        records[TRAINING_FILE] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    return records


def _without_paths(value):
    """The same JSON, where of each absolute path its last part is left."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    for kind in (PurePosixPath, PureWindowsPath):  # a whole value may hold blanks
        path = kind(value)
        if "\n" not in value and (path.is_absolute() or value.startswith("~/")):
            return path.name
    return ABSOLUTE_PATH.sub("", value)
