# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
FlashSloth as ONNX graphs (https://onnx.ai), for onnxruntime on small machines and onnxruntime-web in browsers.

A graph is traced without weights, so that the whole export holds one tensor at a time.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript.optimizer import optimize_ir
from tqdm import tqdm
from transformers import GenerationConfig
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from flashsloth import FlashSlothConfig
from flashsloth.export.graphs import Graph, graphs
from flashsloth.export.weights import DTYPES, WeightWriter
from flashsloth.folders.digest import digest_of_config
from flashsloth.folders.downloads import find_model
from flashsloth.folders.exported import (
    CONFIG_DIGEST,
    DATA_SUFFIX,
    EXPORT_FILE,
    GRAPHS,
    MIXTURES,
    ONNX,
    ONNX_FOLDER,
    PAST,
    SETTINGS,
    WEIGHTS,
    graph_file,
    graph_files,
    settings_of,
)
from flashsloth.folders.fit import check_generation_config
from flashsloth.folders.json_files import read_json, write_json
from flashsloth.folders.model_folder import model_on_meta, read_model, write_model_parts
from flashsloth.folders.new_folder import new_folder, quiet_transformers
from flashsloth.folders.provenance import describe_source, read_provenance, write_provenance
from flashsloth.folders.tensors import LazyTensor
from flashsloth.loading import load_processor


OPSET = 20  # the first with Gelu; onnxruntime-web has it
SOURCE_FILES = ("*.json", "*.jinja")  # of a FlashSloth on the Hub, beside its weights
# Weights of a graph that take more bytes lie in a file beside it. protobuf has no message of 2 GB, and onnxruntime
# holds twice what is within a graph; a file beside it is mapped.
MOST_BYTES_WITHIN = 1 << 26
ALIGNMENT = 1 << 16  # bytes; large tensors begin where any system can map them
PACKAGES = ("flashsloth", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")


def export_onnx(src, dst, weights: Iterable[str] = ("float32",)) -> Path:
    """
    Writes a folder with the graphs of a model, and its config, processor and generation config.

    Args:
        src (`str` or `os.PathLike`): A FlashSloth: a folder, or REPO or REPO@REVISION on the Hub.
        dst (`str` or `os.PathLike`): Folder to write; must not exist, or be empty.
        weights (`Iterable[str]`, *optional*, defaults to `("float32",)`): Any of "float32", "float16", "int8" and
            "int4"; the first is the one that is loaded where none is named.

    Returns:
        `dst`.

    Raises:
        ValueError: If `src` is no FlashSloth, incomplete or quantized, or the weights are unknown. Nothing is left at
            `dst` then.
        OSError: If the connection to the Hub is lost, or the disk is full. Nothing is left at `dst` then either.

    Example:

    ```python
    >>> from flashsloth.export.onnx import export_onnx

    >>> export_onnx("flashsloth-3.2b", "flashsloth-3.2b-onnx", ["int4"])
    ```
    """
    weights = list(dict.fromkeys(weights))
    unknown = [name for name in weights if name not in WEIGHTS]
    if unknown or not weights:
        raise ValueError(f"weights must be among {', '.join(WEIGHTS)}, not {unknown[0] if unknown else 'empty'}.")
    dst = Path(dst)
    with new_folder(dst) as folder, quiet_transformers():
        src = find_model(src, SOURCE_FILES)
        config, checkpoint = read_model(src)
        processor = load_processor(src)
        check_generation_config(src, config)
        has_generation_config = (src / GENERATION_CONFIG_NAME).is_file()
        generation_config = GenerationConfig.from_pretrained(src) if has_generation_config else None
        write_model_parts(folder, config, processor, generation_config)
        write_graphs(folder / ONNX_FOLDER, config, checkpoint, weights)
        write_json(_record(weights, folder), folder / EXPORT_FILE)
        write_provenance(
            folder,
            "export",
            [describe_source("base", src)],
            before=read_provenance(src),
            format="onnx",
            weights=", ".join(weights),
            opset=OPSET,
            onnxruntime=version("onnxruntime"),
        )
    return dst


def _record(weights: list[str], folder: Path) -> dict:
    """What `export.json` holds; the sizes of files tell a copy that was cut short, the hash a changed config."""
    files = sorted((folder / ONNX_FOLDER).iterdir())
    return {
        "format": ONNX,
        "opset": OPSET,
        "default": weights[0],
        "files": {file.relative_to(folder).as_posix(): file.stat().st_size for file in files},
        "weights": {dtype: graph_files(dtype) for dtype in weights},
        SETTINGS: settings_of(folder),
        CONFIG_DIGEST: digest_of_config(read_json(folder / CONFIG_NAME)),
        "versions": {package: version(package) for package in PACKAGES},
    }


def write_graphs(
    folder: Path, config: FlashSlothConfig, checkpoint: Mapping[str, LazyTensor], weights: list[str]
) -> None:
    """
    Writes each graph in each dtype that the weights need.

    Args:
        folder (`Path`): To make.
        config ([`FlashSlothConfig`]): The model's.
        checkpoint (`Mapping[str, LazyTensor]`): Its weights.
        weights (`list[str]`): Keys of `MIXTURES`.
    """
    folder.mkdir()
    model = model_on_meta(config)
    tied = model.all_tied_weights_keys
    tensors = {**checkpoint, **{name: checkpoint[source] for name, source in tied.items()}}
    embeddings = next(
        name for name, parameter in model.named_parameters() if parameter is model.get_input_embeddings().weight
    )
    for index, name in enumerate(GRAPHS):
        dtypes = dict.fromkeys(MIXTURES[kind][name] for kind in weights)
        for traced_dtype in dict.fromkeys(DTYPES[dtype] for dtype in dtypes):
            graph = graphs(config, traced_dtype)[index]()
            traced = trace(graph)
            for dtype in (dtype for dtype in dtypes if DTYPES[dtype] == traced_dtype):
                model = traced.clone()
                parameters = model.graph.inputs[len(graph.inputs) :]
                del model.graph.inputs[len(graph.inputs) :]
                WeightWriter(tensors, dtype, embeddings).write(model.graph, parameters)
                save(model, folder.parent / graph_file(name, dtype))


def trace(graph: Graph) -> ir.Model:
    """
    The ONNX graph of a part of the model. Its parameters are inputs behind its own, with the names of their tensors,
    so that nothing computes with their values.
    """
    axes = {name: dict.fromkeys(by_number, torch.export.Dim.DYNAMIC) for name, by_number in graph.input_axes.items()}
    past = tuple(by_number for name, by_number in axes.items() if name.startswith(PAST))
    shapes = tuple(by_number for name, by_number in axes.items() if not name.startswith(PAST))
    with _quiet_exporter():
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.output_axes),
            dynamic_shapes=(*shapes, past) if past else shapes,  # the cache is one argument, of variable length
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        model = program.model
        names = {name for name, _ in graph.module.named_parameters()}
        for name in names & model.graph.initializers.keys():
            parameter = model.graph.initializers.pop(name)
            parameter.const_value = None
            model.graph.inputs.append(parameter)
        optimize_ir(model)
        ClearMetadataAndDocStringPass()(model)  # they hold paths of this machine
    _name_axes(model.graph, graph)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps what the exporter reports of its own work off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _name_axes(graph: ir.Graph, described: Graph) -> None:
    """Gives the dynamic axes of inputs and outputs the names that they are described by."""
    for values, axes in ((graph.inputs, described.input_axes), (graph.outputs, described.output_axes)):
        for value in values[: len(axes)]:
            sizes = list(value.shape)
            for axis, name in axes[value.name].items():
                sizes[axis] = name
            value.shape = ir.Shape(sizes)


def save(model: ir.Model, file: Path) -> None:
    """
    Writes a graph and its weights: within it, or in a file beside it if they are large.

    Raises:
        ValueError: If a weight is not finite.
        OSError: If the disk is full.
    """
    num_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    is_large = num_bytes > MOST_BYTES_WITHIN
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc=f"Writing {file.name}") as progress:
        try:
            ir.save(
                model,
                file,
                external_data=f"{file.name}{DATA_SUFFIX}" if is_large else None,
                alignment=ALIGNMENT if is_large else None,
                callback=lambda tensor, _: progress.update(tensor.nbytes),
            )
        except ir.serde.SerdeError as error:  # with the whole graph as its message, around the error of a weight
            cause = error
            while isinstance(cause, ir.serde.SerdeError):
                cause = cause.__cause__
            raise cause from None
        progress.update(num_bytes - progress.n)
