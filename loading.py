# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A model and its processor, from a folder or the Hub, on the device and in the dtype that suit this machine. Whatever is
wrong with the folder is one `ValueError` that says what and what to do.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from flashsloth.folders.errors import weight_errors
from flashsloth.folders.fit import check_generation_config
from flashsloth.folders.kind import check_is_flashsloth
from flashsloth.folders.model_folder import check_weights
from flashsloth.folders.new_folder import quiet_transformers
from flashsloth.folders.tensors import NOT_FINITE, is_finite
from flashsloth.parts import SHIPPED_CHECKPOINT, class_in, find_flashsloth, load_config, load_processor


__all__ = [
    "SHIPPED_CHECKPOINT",
    "check_folder",
    "default_device",
    "find_device",
    "find_flashsloth",
    "has_fast_bfloat16",
    "is_int4",
    "load_config",
    "load_model",
    "load_model_and_processor",
    "load_processor",
    "runs_int4",
]

# Instruction sets that multiply matrices of bfloat16, by the names of `torch.cpu.get_capabilities`: x86, then Arm.
# AVX-512 alone does not: it has to imitate them, and is slower than in float32
# (https://docs.openvino.ai/2021.4/openvino_docs_IE_DG_Bfloat16Inference.html).
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def default_device() -> torch.device:
    """The accelerator, or the CPU if there is none."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def find_device(name: torch.device | str) -> torch.device:
    """
    A device of this machine.

    Raises:
        ValueError: If it has no such device.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" is a device without values
    except (RuntimeError, AssertionError, TypeError) as error:  # torch raises each of them for some device
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"This machine has no device {str(name)!r}: take 'cpu', or leave it out ({reason})."
        ) from error
    return device


def has_fast_bfloat16() -> bool:
    """
    Whether the CPU multiplies matrices of bfloat16 at least as fast as those of float32. Without instructions for it
    that can take far longer: 35 times on an AMD EPYC with AVX2, torch 2.13.
    """
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def is_quantized(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint's weights are quantized; its config says how."""
    return "quantization_config" in config.to_dict()


def is_int4(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint's weights are those of `flashsloth quantize --weights int4`."""
    quantization = config.to_dict().get("quantization_config", {})
    method = quantization.get("quant_type")
    default = method.get("default") if isinstance(method, dict) else None
    return isinstance(default, dict) and default.get("_type") == "Int4WeightOnlyConfig"


def runs_int4() -> bool:
    """Whether this machine can multiply by such weights: torchao does so with mslk, on NVIDIA GPUs only."""
    return torch.cuda.is_available() and find_spec("mslk") is not None


def check_runs_here(folder: Path, config: PreTrainedConfig) -> None:
    """
    Raises:
        ValueError: If the weights are int4, and this machine cannot compute with them.
    """
    if is_int4(config) and not runs_int4():
        raise ValueError(
            f"The model {folder} has int4 weights, which need an NVIDIA GPU with mslk "
            "(https://github.com/pytorch/MSLK): take an int8 model (`flashsloth quantize --weights int8`) or the "
            "model that it was made from."
        )


def check_folder(folder: Path) -> None:
    """
    Checks all of a model folder that [`load_model_and_processor`] checks before it reads the weights.

    Raises:
        ValueError: If it is no FlashSloth, incomplete or damaged, or if its parts do not fit each other.
    """
    check_is_flashsloth(folder)
    config = load_config(folder)
    check_weights(folder, config)
    check_generation_config(folder, config)
    load_processor(folder)


def load_model(folder: Path, trust_remote_code: bool = False, **options):
    """
    The model in a folder, in evaluation mode.

    Args:
        folder (`Path`), trust_remote_code (`bool`, *optional*, defaults to `False`): As in [`load_config`].
        options: Of `from_pretrained`, such as `dtype`, `device_map`, `attn_implementation`, `quantization_config`.

    Raises:
        ValueError: If the weights are damaged, incomplete, not those of the config or not finite, the generation
            config does not fit, or the weights are int4 on a machine that cannot compute with them.
        MemoryError: If the memory is too little for the weights.
    """
    config = load_config(folder, trust_remote_code)
    check_runs_here(folder, config)
    auto_class = AutoModelForImageTextToText
    if not trust_remote_code:
        checkpoint = check_weights(folder, config)
        check_generation_config(folder, config)
        if options.get("quantization_config") is not None:
            _check_finite(((name, tensor.read()) for name, tensor in checkpoint.items()), folder)
    with weight_errors(folder), quiet_transformers():
        model_class = class_in(folder, folder / CONFIG_NAME, auto_class.__name__) if trust_remote_code else auto_class
        model, loaded = model_class.from_pretrained(
            folder, config=config, trust_remote_code=trust_remote_code, output_loading_info=True, **options
        )
    for kind in ("missing_keys", "unexpected_keys"):
        if loaded[kind]:
            names = sorted(loaded[kind])
            raise ValueError(
                f"The tensors of {folder} do not fit its config ({len(names)} {kind}, {names[0]} among them). "
                "Download it again, or save it again."
            )
    _check_finite(model.named_parameters(), folder)
    for name, tensor in model.named_buffers():  # computed from the config
        if not is_finite(tensor):
            raise ValueError(
                f"{folder / CONFIG_NAME} makes {name} hold numbers that are not finite. Correct its sizes."
            )
    return model


def _check_finite(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    for name, tensor in tensors:
        if not is_finite(tensor):
            raise ValueError(
                f"{name} of the model {folder} holds numbers that are not finite in {tensor.dtype}. {NOT_FINITE}"
            )


def load_model_and_processor(
    model_id: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str | None = None,
):
    """
    Loads a model and its processor onto the accelerator, or the CPU if there is none.

    Args:
        model_id (`str`): A folder, or `owner/name` on the Hub.
        revision (`str`, *optional*): Commit, branch or tag of the Hub repository. All files are of one commit.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Run the code that the folder or repository holds
            in place of this package's. Without it no code of theirs is run, whatever they ask for.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `"auto"`): Of the weights and of all computation:
            `"auto"` for the checkpoint's own, `"fast"` for float32 in its place where that is bfloat16 and the CPU has
            no instructions for it.
        device (`torch.device` or `str`, *optional*): Such as `"cuda:1"` or `"cpu"`, in place of the accelerator.

    Returns:
        `tuple`: The model, in evaluation mode, and the processor.

    Raises:
        ValueError: If there is no such model, revision or device, or if it is not a FlashSloth, is incomplete or
            damaged, needs code that is not trusted, or has int4 weights, which this machine cannot run.
        FileNotFoundError: If `model_id` can only be a folder, and there is none.
        OSError: If the Hub cannot be reached, or the connection is lost.
        MemoryError: If the memory is too little for the weights.
    """
    device = default_device() if device is None else find_device(device)
    folder = find_flashsloth(model_id, revision)
    config = load_config(folder, trust_remote_code)
    processor = load_processor(folder, trust_remote_code)
    if dtype == "fast":
        is_slow = config.dtype == torch.bfloat16 and device.type == "cpu" and not has_fast_bfloat16()
        dtype = "float32" if is_slow else "auto"  # of a quantized checkpoint only what is not quantized changes
    return load_model(folder, trust_remote_code, dtype=dtype, device_map=device), processor
