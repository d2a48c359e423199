# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What an exported model folder holds. Of onnx: graphs in `onnx/`, by the names that transformers.js and the ONNX
community use, and `export.json`, the record of the export, which says what graph belongs to which weights. Of
executorch: a program, and a record that says how to call it.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from flashsloth.folders.digest import digest_of_config
from flashsloth.folders.json_files import read_json


EXPORT_FILE = "export.json"
ONNX = "onnx"  # the format of a folder with graphs
EXECUTORCH = "executorch"  # the format of a folder without graphs: one program, for apps
EXECUTORCH_WEIGHTS = ("float32", "int8")
ONNX_FOLDER = "onnx"
VISION_ENCODER, EMBED_TOKENS, DECODER = GRAPHS = ("vision_encoder", "embed_tokens", "decoder_model_merged")
# How the names of graphs end, by the dtype of their weights.
SUFFIXES = {"float32": "", "float16": "_fp16", "int8": "_q8", "int4": "_q4"}
WEIGHTS = tuple(SUFFIXES)
# The dtype of each graph by what is asked for. In 4 bits the vision tower and the embeddings lose more than they save.
MIXTURES = {dtype: dict.fromkeys(GRAPHS, dtype) for dtype in WEIGHTS}
MIXTURES["int4"] = {VISION_ENCODER: "int8", EMBED_TOKENS: "int8", DECODER: "int4"}
SETTINGS = "settings"  # the key of the record with the names of the files beside the graphs
SETTINGS_PATTERNS = ("*.json", "*.jinja")  # of those: config, processor, tokenizer, chat template, generation config
CONFIG_DIGEST = "config_sha256"  # the key of the record with the hash of the config that the graphs were made of
PAST, PRESENT = "past_key_values.", "present."  # how the decoder's cached keys and values begin, before and after
MOST_QUOTED = 80  # characters of a damaged value in a message
DATA_SUFFIX = "_data"  # of the file of weights beside a graph that is too large to hold them


def graph_file(graph: str, dtype: str) -> str:
    """The name of a graph with weights of a dtype, within the folder."""
    return f"{ONNX_FOLDER}/{graph}{SUFFIXES[dtype]}.onnx"


def graph_files(dtype: str) -> dict[str, str]:
    """The names of the graphs that weights of a dtype consist of, by graph."""
    return {graph: graph_file(graph, kept) for graph, kept in MIXTURES[dtype].items()}


def is_exported(folder: Path) -> bool:
    """Whether a folder holds an exported model."""
    return (folder / EXPORT_FILE).is_file()


def read_export(folder: Path) -> dict:
    """
    The record of an exported model.

    Raises:
        ValueError: If the folder holds no exported model, or one for another runtime, or its record is damaged.
    """
    if not is_exported(folder):
        raise ValueError(
            f"{folder} is no exported model: it has no {EXPORT_FILE}. Export it first: flashsloth export {folder} DST "
            "--format onnx."
        )
    record = read_json(folder / EXPORT_FILE)
    if record.get("format") == EXECUTORCH:
        raise ValueError(
            f"{folder} holds an ExecuTorch program, which apps run and flashsloth does not: name the model that it "
            "was made from."
        )
    reason = _damage(record)
    if reason is not None:
        raise ValueError(f"{folder / EXPORT_FILE} is damaged: {reason}. Copy or export the model again.")
    return record


def program_weights(weights: Sequence[str]) -> str:
    """
    The one kind of weights of an ExecuTorch program, of what is asked for.

    Raises:
        ValueError: If it is another kind, or several.
    """
    if len(weights) != 1 or weights[0] not in EXECUTORCH_WEIGHTS:
        raise ValueError(
            f"An ExecuTorch program holds one kind of weights, {' or '.join(EXECUTORCH_WEIGHTS)}, not "
            f"{', '.join(weights) or 'none'}."
        )
    return weights[0]


def chosen_dtype(record: dict, dtype: str, where) -> str:
    """
    The dtype of the weights that are asked for, or the default of the export.

    Args:
        record (`dict`): See [`read_export`].
        dtype (`str`): What is asked for; "auto" and "fast" are the default of the export.
        where: The folder, for the message.

    Raises:
        ValueError: If the model was not exported with such weights.
    """
    if dtype in ("auto", "fast"):
        return record["default"]
    if dtype not in record["weights"]:
        raise ValueError(
            f"{where} holds no weights in {dtype}: take {' or '.join(record['weights'])}, or export the model again "
            "with others."
        )
    return dtype


def files_of(record: dict, dtype: str) -> dict[str, int]:
    """The sizes of the files with weights of a dtype, in bytes, by their names: graphs and what lies beside them."""
    graphs = set(record["weights"][dtype].values())
    return {name: size for name, size in record["files"].items() if name.removesuffix(DATA_SUFFIX) in graphs}


def settings_of(folder: Path) -> list[str]:
    """The names of the files beside the graphs that the answers depend on, while a folder is written."""
    return sorted(file.name for pattern in SETTINGS_PATTERNS for file in folder.glob(pattern))


def check_settings(record: dict, folder: Path) -> None:
    """
    Looks for the files beside the graphs. Without its chat template or its generation config a model would answer, but
    in another way. A record of an export that kept no names passes.

    Args:
        record (`dict`): See [`read_export`].
        folder (`Path`): The folder.

    Raises:
        ValueError: If one is missing.
    """
    for name in record.get(SETTINGS, []):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing, but the model needs it. Copy or export the model again.")


def check_config(record: dict, file: Path) -> None:
    """
    Compares a config with the one that the graphs were made of. A record of an export that kept no hash passes.

    Args:
        record (`dict`): See [`read_export`].
        file (`Path`): The config.json.

    Raises:
        ValueError: If they differ in more than notes.
    """
    if CONFIG_DIGEST in record and digest_of_config(read_json(file)) != record[CONFIG_DIGEST]:
        raise ValueError(
            f"{file} is not the config that the graphs were made of: it was changed after the export. Copy or export "
            "the model again."
        )


def _damage(record: dict) -> str | None:
    """What is wrong with the record of graphs; every value may be of any type."""
    weights, default, files = (record.get(name) for name in ("weights", "default", "files"))
    if not isinstance(weights, dict) or not weights or not weights.keys() <= set(WEIGHTS):
        return "it does not name the graphs of the model"
    for dtype, named in weights.items():
        if named != graph_files(dtype):
            return f"the graphs that it names for {dtype} are not those of such weights"
    if not isinstance(default, str) or default not in weights:
        return f"its default {str(default)[:MOST_QUOTED]!r} is none of its weights ({', '.join(weights)})"
    if not _is_sizes(files):
        return f"its files are not sizes in bytes of files in {ONNX_FOLDER}/"
    missing = sorted({name for named in weights.values() for name in named.values()} - files.keys())
    if missing:
        return f"it has no size for {missing[0]}"
    if record.get("format") != ONNX:
        return f"its format {str(record.get('format'))[:MOST_QUOTED]!r} is neither {ONNX!r} nor {EXECUTORCH!r}"
    if not isinstance(record.get(CONFIG_DIGEST, ""), str):
        return f"its {CONFIG_DIGEST} is no text"
    if not _is_names(record.get(SETTINGS, [])):
        return f"its {SETTINGS} are not names of files"
    return None


def _is_names(names) -> bool:
    """Whether these are names of files in the folder itself."""
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return is_list and all(name and name == PurePosixPath(name).name for name in names)


def _is_sizes(files) -> bool:
    """Whether this gives files in the folder of graphs with their sizes."""
    return isinstance(files, dict) and all(
        name == f"{ONNX_FOLDER}/{PurePosixPath(name).name}" and type(size) is int and size >= 0
        for name, size in files.items()
    )
