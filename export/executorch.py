# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
FlashSloth as an ExecuTorch program (https://docs.pytorch.org/executorch), for apps on phones: XNNPACK on their CPU.

transformers' exporters trace and quantize. Lowering is left to executorch itself: transformers' ExecutorchExporter
writes programs of one method, without constants, which copy the whole key-value cache twice in each step.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import torch
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import ExecutorchBackendConfig, ExecutorchProgramManager, to_edge_transform_and_lower
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import GenerationConfig
from transformers.exporters import PT2EQuantizer
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
from transformers.utils import GENERATION_CONFIG_NAME

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, FlashSlothProcessor
from flashsloth.export.cached_decoder import CachedDecoder
from flashsloth.export.graphs import VisionEncoder, cache_shapes
from flashsloth.folders.downloads import find_model
from flashsloth.folders.exported import EXECUTORCH, EXPORT_FILE, program_weights
from flashsloth.folders.fit import check_generation_config
from flashsloth.folders.json_files import write_json
from flashsloth.folders.model_folder import read_model, write_model_parts
from flashsloth.folders.new_folder import new_folder, quiet_transformers
from flashsloth.folders.provenance import describe_source, read_provenance, write_provenance
from flashsloth.loading import load_model, load_processor


logger = logging.getLogger(__name__)

PROGRAM_FILE = "model.pte"
PACKAGES = ("flashsloth", "torch", "transformers", "executorch", "torchao")
# Of the example inputs, with which the decoder is traced: all dynamic axes differ, and none is 0 or 1.
LENGTH, VIEWS, PATCHES = 7, 3, 5


@dataclass(frozen=True)
class Method:
    """
    A method of the program.

    Args:
        module (`nn.Module`): Computes it.
        call (`str`): When to call it, in a sentence.
        inputs (`dict`): Example inputs by name, in their order.
        outputs (`list[str]`): Names of its outputs.
        axes (`dict`): Names of the axes that are dynamic, by input and number.
    """

    module: nn.Module
    call: str
    inputs: dict[str, torch.Tensor]
    outputs: list[str]
    axes: dict[str, dict[int, str]]

    @torch.no_grad()
    def example_outputs(self) -> dict[str, torch.Tensor]:
        """What the example inputs give. No axis of an output is dynamic."""
        outputs = self.module(**self.inputs)
        return dict(zip(self.outputs, outputs if isinstance(outputs, tuple) else [outputs], strict=True))


def export_executorch(
    src, dst, weights: str = "float32", max_length: int | None = None, max_views: int | None = None
) -> Path:
    """
    Writes a folder with a program, `model.pte`; what an app has to know of it, `export.json`; and the model's config,
    processor and generation config. The model is held in float32 while it is lowered, several times over.

    Args:
        src (`str` or `os.PathLike`): A FlashSloth: a folder, or REPO or REPO@REVISION on the Hub.
        dst (`str` or `os.PathLike`): Folder to write; must not exist, or be empty.
        weights (`str`, *optional*, defaults to `"float32"`): "int8" for linear layers and convolutions in 8
            bits, whose inputs are quantized when they come; the embeddings of tokens keep float32.
        max_length (`int`, *optional*): Positions of a conversation, its prompts and answers. The program reserves
            memory for that many. The decoder's own limit if unset.
        max_views (`int`, *optional*): Views of a conversation, of all its images. Those of one image in high
            resolution if unset.

    Returns:
        `dst`.

    Raises:
        ValueError: If `src` is no FlashSloth, incomplete or quantized, its decoder keeps other states than keys and
            values, or an argument is out of range. Nothing is left at `dst` then.
        OSError: If the connection to the Hub is lost, or the disk is full. Nothing is left at `dst` then either.

    Example:

    ```python
    >>> from flashsloth.export.executorch import export_executorch

    >>> export_executorch("flashsloth-3.2b", "flashsloth-3.2b-phone", "int8", max_length=512)
    ```
    """
    weights = program_weights([weights])
    dst = Path(dst)
    with new_folder(dst) as folder, quiet_transformers():
        src = find_model(src)
        config, _ = read_model(src)
        processor = load_processor(src)
        check_generation_config(src, config)
        cache_shapes(config)
        bounds = _bounds(config, processor, max_length, max_views)
        has_generation_config = (src / GENERATION_CONFIG_NAME).is_file()
        generation_config = GenerationConfig.from_pretrained(src) if has_generation_config else None
        logger.info("Compiling the program, which takes a minute or more")
        model = load_model(src, dtype=torch.float32, device_map="cpu").requires_grad_(False)
        parts = methods(model, bounds)
        constants = _constants(config, bounds)
        record = _record(weights, parts, bounds, constants)
        program = lower({name: trace(part, bounds, weights) for name, part in parts.items()}, constants)
        with open(folder / PROGRAM_FILE, "wb") as file:
            program.write_to_file(file)
        write_model_parts(folder, config, processor, generation_config)
        record["files"] = {PROGRAM_FILE: (folder / PROGRAM_FILE).stat().st_size}
        write_json(record, folder / EXPORT_FILE)
        write_provenance(
            folder,
            "export",
            [describe_source("base", src)],
            before=read_provenance(src),
            format=EXECUTORCH,
            weights=weights,
            executorch=version("executorch"),
        )
    return dst


def _bounds(
    config: FlashSlothConfig, processor: FlashSlothProcessor, max_length: int | None, max_views: int | None
) -> dict[str, int]:
    """The largest size of each dynamic axis."""
    limit = config.text_config.max_position_embeddings
    fewest = max(LENGTH, config.num_query_tokens + config.num_visual_tokens)
    max_length = limit if max_length is None else max_length
    if not fewest <= max_length <= limit:
        raise ValueError(
            f"max_length is {max_length}: take a number from {fewest}, for an image and its query tokens, to {limit}, "
            "the decoder's own limit."
        )
    max_views = processor.image_processor.num_views(hd=True) if max_views is None else max_views
    most = limit // config.num_visual_tokens
    if not VIEWS <= max_views <= most:
        raise ValueError(
            f"max_views is {max_views}: take a number from {VIEWS} to {most}, which is how many the decoder's {limit} "
            "positions hold."
        )
    return {"length": max_length, "views": max_views, "patches": max_views * config.num_patches}


def methods(model: FlashSlothForCausalLM, bounds: dict[str, int]) -> dict[str, Method]:
    """
    The methods of the program, by name.

    Args:
        model ([`FlashSlothForCausalLM`])
        bounds (`dict`): The largest size of each dynamic axis.
    """
    config = model.config
    vision, width = config.vision_config, config.text_config.hidden_size
    decoder = CachedDecoder(model, bounds["length"])
    return {
        "vision_encoder": Method(
            VisionEncoder(model),
            "Once for each view of an image.",
            {"pixel_values": torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size)},
            ["image_features", "patches", "pooling_weights"],
            {},
        ),
        "decoder": Method(
            decoder,
            "Once for a prompt, position 0; then once for each new token, or for the next turn, behind the positions "
            "so far. A prompt comes with the views of all images of the conversation; a token, or a conversation "
            "without images, with one view and one patch of zeros and a view_mask of 0.",
            {
                "input_ids": torch.zeros(1, LENGTH, dtype=torch.long),
                "position": torch.zeros(1, dtype=torch.long),
                "image_features": torch.zeros(1, VIEWS, config.num_visual_tokens, width),
                "view_mask": torch.zeros(1, VIEWS, dtype=torch.long),
                "patches": torch.zeros(1, PATCHES, vision.hidden_size),
            },
            ["logits"],
            {
                "input_ids": {1: "length"},
                "image_features": {1: "views"},
                "view_mask": {1: "views"},
                "patches": {1: "patches"},
            },
        ),
    }


def trace(method: Method, bounds: dict[str, int], weights: str) -> ExportedProgram:
    """
    The graph of a method, quantized if asked for.

    Args:
        method ([`Method`])
        bounds (`dict`): The largest size of each dynamic axis.
        weights (`str`): "float32" or "int8".
    """
    axes = {
        name: Dim(name, min=1, max=bounds[name]) for by_number in method.axes.values() for name in by_number.values()
    }
    shapes = {
        name: {number: axes[axis] for number, axis in method.axes.get(name, {}).items()} or None
        for name in method.inputs
    }
    quantizer = None
    if weights == "int8":
        # Dynamic: scales of inputs are found when they come, so nothing has to be calibrated.
        int8 = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        quantizer = PT2EQuantizer(_DynamicQuantizer().set_global(int8))
    config = DynamoConfig(dynamic_shapes=shapes, quantizer=quantizer)
    with _quiet_exporter():
        program, _ = DynamoExporter().export_program(method.module, dict(method.inputs), config)
    return program


class _DynamicQuantizer(XNNPACKQuantizer):
    """executorch's own, for graphs that also compute with whole numbers."""

    def transform_for_annotation(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        # It would make every number that is added or multiplied a float, so that sums quantize; positions, masks and
        # indices are integers here, and dynamic quantization leaves sums alone.
        return model


def lower(programs: dict[str, ExportedProgram], constants: dict[str, int | list[int]]) -> ExecutorchProgramManager:
    """Graphs and constants as one program, in which XNNPACK computes what it can."""
    # Quantized layers one by one, as in executorch's own examples: layers with the same input share its scales, and
    # XNNPACK's partitioner, which would merge them, then finds partitions that depend on each other in a circle.
    partitioners = [
        XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True),
        XnnpackPartitioner(config_precisions=ConfigPrecisionType.FP32),
    ]
    with _quiet_exporter():
        edge = to_edge_transform_and_lower(programs, partitioner=partitioners, constant_methods=constants)
        # Else every step would copy the key-value cache, to change it, and back.
        return edge.to_executorch(ExecutorchBackendConfig(run_reinplace_pass=True))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps what the exporters report of their own work off the terminal."""
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)


def _constants(config: FlashSlothConfig, bounds: dict[str, int]) -> dict[str, int | list[int]]:
    """Methods that return numbers, by the names that ExecuTorch's own runners use where they have one."""
    return {
        "get_max_context_len": bounds["length"],
        "get_max_seq_len": bounds["length"],
        "get_vocab_size": config.text_config.vocab_size,
        "get_eos_ids": list(config.eos_token_ids),
        "use_kv_cache": True,
        "enable_dynamic_shape": True,
        "get_max_views": bounds["views"],
        "get_num_visual_tokens": config.num_visual_tokens,
        "get_image_token_id": config.image_token_id,
        "get_query_token_ids": list(config.query_token_ids),
        "get_suppressed_token_ids": list(config.placeholder_token_ids),
    }


def _record(
    weights: str, parts: dict[str, Method], bounds: dict[str, int], constants: dict[str, int | list[int]]
) -> dict:
    """What `export.json` holds, but for the size of the program: how to call it."""
    return {
        "format": EXECUTORCH,
        "weights": weights,
        "backend": "xnnpack",
        "axes": {name: {"min": 1, "max": size} for name, size in bounds.items()},
        "methods": {
            name: {
                "call": method.call,
                "inputs": [
                    _describe(name, tensor, method.axes.get(name, {})) for name, tensor in method.inputs.items()
                ],
                "outputs": [_describe(name, tensor) for name, tensor in method.example_outputs().items()],
            }
            for name, method in parts.items()
        },
        "constants": constants,
        "versions": {package: version(package) for package in PACKAGES},
    }


def _describe(name: str, tensor: torch.Tensor, axes: Mapping[int, str] = MappingProxyType({})) -> dict:
    """Name, dtype and shape of an input or output, in which dynamic axes have names."""
    shape = [axes.get(number, size) for number, size in enumerate(tensor.shape)]
    return {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": shape}
