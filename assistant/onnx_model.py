# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The graphs of an exported model in onnxruntime: loading, checks, and one call for each graph. Without torch."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from flashsloth.folders.errors import one_line
from flashsloth.folders.exported import (
    DECODER,
    EMBED_TOKENS,
    GRAPHS,
    PAST,
    PRESENT,
    SUFFIXES,
    VISION_ENCODER,
    check_config,
    chosen_dtype,
    files_of,
    read_export,
)
from flashsloth.folders.generation_settings import is_whole


MEMORY_FILE = Path("/proc/meminfo")
AVAILABLE_MEMORY = "MemAvailable:"
# What a graph takes in memory, in sizes of its files. A CPU without arithmetic in float16 gets a copy in float32.
MEMORY, FLOAT16_MEMORY = 1.1, 3.1
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}  # by the names of devices
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
ALL_CORES = 0  # onnxruntime's name for them
# onnxruntime's level of logging of nothing but its own end: it raises errors too, and they need not be written twice.
QUIET = 4
# After a run with these options, onnxruntime gives back the memory of its arena that no value is in.
SHRINKING = {"cpu": ("memory.enable_memory_arena_shrinkage", "cpu:0")}  # by the names of devices


@dataclass
class Features:
    """
    The encoded images of a batch, by row; `FlashSlothImageFeatures` without torch.

    Args:
        image_features (`np.ndarray` of shape `(B, V, T, D)`), patches (`(B, V, P, C)`), pooling_weights
            (`(B, V, T, R)`), view_mask (`(B, V)`): As the graphs have them.
    """

    image_features: np.ndarray
    patches: np.ndarray
    pooling_weights: np.ndarray
    view_mask: np.ndarray


class OnnxModel:
    """
    An exported model.

    Args:
        folder (`Path`): Its folder.
        config ([`FlashSlothConfig`]): Its config.
        dtype (`str`, *optional*, defaults to `"auto"`): Weights of the graphs; "auto" and "fast" are the default of
            the export.
        device (`str`, *optional*, defaults to `"cpu"`): "cpu", or "cuda" with onnxruntime-gpu.
        threads (`int`, *optional*): Threads that compute; as many as `OMP_NUM_THREADS` says, or there are cores, if
            unset.

    Raises:
        ValueError: If a graph is missing, damaged, newer than onnxruntime, or of another config, if it does not fit
            into memory, or if there are no such weights or device.
    """

    def __init__(
        self,
        folder: Path,
        config: PreTrainedConfig,
        dtype: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
    ):
        self.folder, self.config, self.device = folder, config, device
        record = read_export(folder)
        self.dtype = chosen_dtype(record, dtype, folder)
        files = {graph: folder / name for graph, name in record["weights"][self.dtype].items()}
        sizes = {folder / name: size for name, size in files_of(record, self.dtype).items()}
        check_files(sizes)
        check_memory(sizes, folder)
        options = session_options(threads)
        provider = find_provider(device)
        self._sessions = {graph: open_graph(file, options, provider) for graph, file in files.items()}
        check_graphs(self._sessions, config, folder)
        check_config(record, folder / CONFIG_NAME)
        self._shrinking = shrinking_options(device)
        self._past = [value for value in self._sessions[DECODER].get_inputs() if value.name.startswith(PAST)]
        self._presents = [value.name for value in self._sessions[DECODER].get_outputs() if PRESENT in value.name]

    def encode(self, pixel_values: np.ndarray, view_mask: np.ndarray) -> Features:
        """
        Encodes views, one at a time: weights of 8 bits scale all inputs of a call alike, and an image must not
        change with its neighbours.

        Args:
            pixel_values (`np.ndarray` of shape `(N, 3, S, S)`), view_mask (`np.ndarray` of shape `(B, V)`): As the
                processor makes them.
        """
        session = self._sessions[VISION_ENCODER]
        names = ("image_features", "patches", "pooling_weights")
        encoded = [session.run(names, {"pixel_values": view[None]}) for view in pixel_values]
        by_row = []
        for parts in zip(*encoded, strict=True):
            rows = np.zeros((*view_mask.shape, *parts[0].shape[1:]), np.float32)
            rows[view_mask.astype(bool)] = np.concatenate(parts)
            by_row.append(rows)
        return Features(*by_row, view_mask)

    def embed(self, input_ids: np.ndarray, features: Features | None, past_length: int) -> dict[str, np.ndarray]:
        """
        Embeds tokens and the visual tokens among them.

        Returns:
            The inputs of `decode` that follow from that.
        """
        config, rows = self.config, len(input_ids)
        if features is None:  # one view that no row has
            shape = (rows, 1, config.num_visual_tokens, config.text_config.hidden_size)
            image_features, view_mask = np.zeros(shape, np.float32), np.zeros((rows, 1), np.int64)
        else:
            image_features, view_mask = features.image_features, features.view_mask
        names = ("inputs_embeds", "query_mask", "instruction_mask", "patch_mask")
        inputs = {
            "input_ids": input_ids,
            "image_features": image_features,
            "view_mask": view_mask,
            "past_length": np.array(past_length, np.int64),
        }
        outputs = self._sessions[EMBED_TOKENS].run(names, inputs, self._options_of(input_ids.shape[1]))
        embedded = dict(zip(names, outputs, strict=True))
        if features is None:  # one patch that no position attends to
            embedded["patches"] = np.zeros((rows, 1, config.vision_config.hidden_size), np.float32)
            embedded["patch_mask"] = np.zeros((*input_ids.shape, 1), bool)
        else:
            embedded["patches"] = features.patches.reshape(rows, -1, features.patches.shape[-1])
        return embedded

    def decoder_inputs(
        self, new_ids: np.ndarray, mask: np.ndarray, features: Features | None, past_length: int
    ) -> dict[str, np.ndarray]:
        """
        The decoder's inputs for positions behind a cache; padding counts for nothing.

        Args:
            new_ids (`np.ndarray` of shape `(B, L)`): Tokens of these positions.
            mask (`np.ndarray` of shape `(B, past_length + L)`): 0 for padding, the cache's included.
            features ([`Features`], *optional*): Of the images in the whole sequences; not needed once no position
                holds images or query tokens.
            past_length (`int`): Positions in the cache.
        """
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        embedded = self.embed(new_ids, features, past_length)
        return {**embedded, "attention_mask": mask, "position_ids": positions[:, past_length:]}

    def decode(self, inputs: dict[str, np.ndarray], past: list, output: str = "logits") -> tuple[np.ndarray, list]:
        """
        Runs the decoder.

        Args:
            inputs (`dict[str, np.ndarray]`): Those of the graph.
            past (`list`): Keys and values of earlier positions, as this returns them, or `empty_past`.
            output (`str`, *optional*, defaults to `"logits"`): Or "query_attentions".

        Returns:
            The output and the keys and values, which stay where onnxruntime has them.
        """
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        values |= {value.name: states for value, states in zip(self._past, past, strict=True)}
        options = self._options_of(inputs["inputs_embeds"].shape[1])
        result, *present = self._sessions[DECODER].run_with_ort_values([output, *self._presents], values, options)
        return result.numpy(), present

    def _options_of(self, length: int) -> onnxruntime.RunOptions | None:
        """
        How a run over so many new positions goes. Only a prefill shrinks the arena: a step of decoding takes little,
        and would be slowed down by memory that it has to ask for again.
        """
        return self._shrinking if length > 1 else None

    def empty_past(self, rows: int) -> list:
        """Keys and values of no positions."""
        shapes = [((rows, value.shape[1], 0, value.shape[3]), TYPES[value.type]) for value in self._past]
        return [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype)) for shape, dtype in shapes]


def check_files(sizes: dict[Path, int]) -> None:
    """
    Args:
        sizes (`dict[Path, int]`): Bytes of each file when the model was exported.

    Raises:
        ValueError: If a file is missing, or has another size.
    """
    for file, size in sizes.items():
        if not file.is_file():
            raise ValueError(f"{file} is missing, but the model needs it. Copy or export the model again.")
        if file.stat().st_size != size:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes, but had {size} when it was exported: it is cut short or "
                "damaged. Copy or export the model again."
            )


def check_memory(sizes: dict[Path, int], folder: Path) -> None:
    """
    Raises:
        ValueError: If the graphs take more memory than the machine has left; only Linux says how much that is.
    """
    if not MEMORY_FILE.is_file():
        return
    lines = MEMORY_FILE.read_text(encoding="ascii").splitlines()
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith(AVAILABLE_MEMORY)), None)
    is_half = SUFFIXES["float16"] + ".onnx"
    needed = sum(size * (FLOAT16_MEMORY if is_half in file.name else MEMORY) for file, size in sizes.items())
    if available is not None and needed > available:
        raise ValueError(
            f"{folder} takes about {needed / 1e9:.1f} GB of memory, but {available / 1e9:.1f} GB are free: close "
            "other programs, or export it with fewer bits (--weights int4)."
        )


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """
    How the graphs run.

    Raises:
        ValueError: If there are more threads than cores, which would only wait for each other.
    """
    cores = os.cpu_count() or 1
    if threads is not None and not (is_whole(threads) and 1 <= threads <= cores):
        raise ValueError(
            f"threads is {threads!r}: take a whole number from 1 to {cores}, which is how many cores there are."
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    # A plan of memory for each set of shapes would be kept for ever, and hardly two prompts have the same.
    options.enable_mem_pattern = False
    set_by_environment = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = threads or (
        int(set_by_environment) if set_by_environment.isdecimal() else ALL_CORES
    )
    return options


def shrinking_options(device: str) -> onnxruntime.RunOptions | None:
    """How a run goes that gives memory back; without, the arena keeps what the largest shapes took. Not of a GPU."""
    entry = SHRINKING.get(str(device).partition(":")[0])
    if entry is None:
        return None
    options = onnxruntime.RunOptions()
    options.log_severity_level = QUIET
    options.add_run_config_entry(*entry)
    return options


def find_provider(device: str) -> str:
    """
    onnxruntime's name for a device.

    Raises:
        ValueError: If it has no such device here.
    """
    provider = PROVIDERS.get(str(device).partition(":")[0])
    if provider not in onnxruntime.get_available_providers():
        hint = " (onnxruntime-gpu has cuda)" if provider == PROVIDERS["cuda"] else ""
        raise ValueError(f"onnxruntime has no device {str(device)!r} here{hint}: take 'cpu', or leave it out.")
    return provider


def open_graph(file: Path, options: onnxruntime.SessionOptions, provider: str) -> onnxruntime.InferenceSession:
    """
    Loads a graph.

    Raises:
        ValueError: If it is damaged, or of a version that onnxruntime does not know, or if the device fails.
    """
    try:
        # Without its fallback, which prints, and computes on the CPU what was meant for another device.
        session = onnxruntime.InferenceSession(file, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime has no common class of its errors
        reason = one_line(error)
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot load {file}: {reason}. Copy or export the model again, or "
            "install a newer onnxruntime."
        ) from error
    if provider not in session.get_providers():
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot use {provider} here, and would compute on the CPU: install "
            "what that needs, or take the device 'cpu'."
        )
    return session


def check_graphs(sessions: dict, config: PreTrainedConfig, folder: Path) -> None:
    """
    Compares the graphs with the config.

    Raises:
        ValueError: If a graph lacks an input, or a size of it differs; the message names both.
    """
    vision, text = config.vision_config, config.text_config
    expected = {
        VISION_ENCODER: {"pixel_values": {2: vision.image_size, 3: vision.image_size}},
        EMBED_TOKENS: {"image_features": {2: config.num_visual_tokens, 3: text.hidden_size}},
        DECODER: {"inputs_embeds": {2: text.hidden_size}, "patches": {2: vision.hidden_size}},
    }
    for graph in GRAPHS:
        shapes = {value.name: value.shape for value in sessions[graph].get_inputs()}
        for name, sizes in expected[graph].items():
            if name not in shapes:
                raise ValueError(f"The graph {graph} in {folder} has no input {name}. Export the model again.")
            for axis, size in sizes.items():
                if shapes[name][axis] != size:
                    raise ValueError(
                        f"The graph {graph} in {folder} takes {name} of size {shapes[name][axis]} along axis {axis}, "
                        f"but the config has {size}: they are of different models. Export the model again."
                    )
    names = [value.name for value in sessions[DECODER].get_inputs()]
    layers = sum(name.startswith(PAST) for name in names) // 2
    logits = next(value.shape for value in sessions[DECODER].get_outputs() if value.name == "logits")
    for what, found, wanted in (
        ("layers", layers, text.num_hidden_layers),
        ("tokens", logits[-1], text.vocab_size),
    ):
        if found != wanted:
            raise ValueError(
                f"The graph {DECODER} in {folder} has {found} {what}, but the config has {wanted}: they are of "
                "different models. Export the model again."
            )
