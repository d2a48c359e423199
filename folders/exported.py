# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What an exported model folder holds. Of onnx: graphs in `onnx/`, by the names that transformers.js and the ONNX
community use, and `export.json`, the record of the export, which says what graph belongs to which weights. Of
executorch: a program, and a record that says how to call it.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from flashsloth.folders.json_files import read_json


EXPORT_FILE = "export.json"
EXECUTORCH = "executorch"  # the format of a folder without graphs: one program, for apps
EXECUTORCH_WEIGHTS = ("float32", "int8")
ONNX_FOLDER = "onnx"
VISION_ENCODER, EMBED_TOKENS, DECODER = GRAPHS = ("vision_encoder", "embed_tokens", "decoder_model_merged")
# How the names of graphs end, by the dtype of their weights.
SUFFIXES = {"float32": "", "float16": "_fp16", "int8": "_q8", "int4": "_q4"}
WEIGHTS = tuple(SUFFIXES)
PAST, PRESENT = "past_key_values.", "present."  # how the decoder's cached keys and values begin, before and after
DATA_SUFFIX = "_data"  # of the file of weights beside a graph that is too large to hold them


def graph_file(graph: str, dtype: str) -> str:
    """The name of a graph with weights of a dtype, within the folder."""
    return f"{ONNX_FOLDER}/{graph}{SUFFIXES[dtype]}.onnx"


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
    weights = record.get("weights")
    is_complete = isinstance(weights, dict) and weights and all(_is_graphs(files) for files in weights.values())
    is_complete = is_complete and weights.keys() <= set(WEIGHTS) and record.get("default") in weights
    if is_complete and _is_sizes(record.get("files")):
        named = {name for files in weights.values() for name in files.values()}
        is_complete = named <= record["files"].keys()
    else:
        is_complete = False
    if not is_complete:
        raise ValueError(f"{folder / EXPORT_FILE} does not name the graphs of the model. Export it again.")
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


def _is_sizes(files) -> bool:
    """Whether this gives files in the folder of graphs with their sizes."""
    return isinstance(files, dict) and all(
        name == f"{ONNX_FOLDER}/{PurePosixPath(name).name}" and isinstance(size, int) for name, size in files.items()
    )


def _is_graphs(files) -> bool:
    """Whether this names a file for each graph, in the folder of graphs."""
    if not isinstance(files, dict) or set(files) != set(GRAPHS):
        return False
    names = {graph_file(graph, dtype) for graph in GRAPHS for dtype in WEIGHTS}
    return all(isinstance(name, str) and name in names for name in files.values())
