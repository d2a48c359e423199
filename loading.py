# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A model and its processor, from a folder or the Hub, on the device and in the dtype that suit this machine."""

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

from flashsloth import register_auto_classes
from flashsloth.folders.downloads import TOKENIZER_FILES, find_files, find_model


EMBEDDED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "flashsloth-tiny"

# What a model is loaded from, beside its weights.
MODEL_FILES = (*TOKENIZER_FILES, "*.jinja", "*.py")

# Instruction sets that multiply matrices of bfloat16, by the names of `torch.cpu.get_capabilities`: x86, then Arm.
# AVX-512 alone does not: it has to imitate them, and is slower than in float32
# (https://docs.openvino.ai/2021.4/openvino_docs_IE_DG_Bfloat16Inference.html).
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


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


def load(
    model_id: str, revision: str | None = None, trust_remote_code: bool = False, dtype: torch.dtype | str = "auto"
):
    """
    Loads a model and its processor onto the accelerator, or the CPU if there is none.

    Args:
        model_id (`str`): A folder, or `owner/name` on the Hub.
        revision (`str`, *optional*): Commit, branch or tag of the Hub repository. Whatever is named, all files are of
            one commit.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Run the code that the folder or repository holds,
            which is needed where that code differs from this package's.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `"auto"`): Of the weights and of all computation:
            `"auto"` for the checkpoint's own, `"fast"` for float32 in its place where that is bfloat16 and the CPU has
            no instructions for it.

    Returns:
        `tuple`: The model, in evaluation mode, and the processor.

    Raises:
        ValueError: If there is no such model or revision, or if it is not a FlashSloth, is incomplete or damaged, or
            needs code that is not trusted.
        FileNotFoundError: If `model_id` can only be a folder, and there is none.
        OSError: If the Hub cannot be reached, or the connection is lost.
    """
    register_auto_classes()
    folder = Path(model_id)
    is_remote = not folder.is_dir()
    name = f"{model_id}@{revision}" if revision else model_id
    if revision and not is_remote:
        raise ValueError(f"'{model_id}' is a folder, which has no revision {revision}; a Hub repository may have one.")
    if is_remote:
        if model_id.count("/") != 1 or model_id.startswith((".", "/", "~")):
            raise FileNotFoundError(f"No model folder at '{model_id}'; give a folder or a Hub id such as owner/name.")
        folder = find_files(name, MODEL_FILES)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if config.model_type != "flashsloth":
            raise ValueError(
                f"'{model_id}' is a model of type '{config.model_type}', not a FlashSloth; a checkpoint in the "
                "published layout is made one by `flashsloth convert`."
            )
        if is_remote:
            # Weights are fetched of what is known to be a FlashSloth only, and of the commit of the other files.
            folder = find_model(f"{name.partition('@')[0]}@{folder.name}", MODEL_FILES)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        if dtype == "fast":
            is_slow = config.dtype == torch.bfloat16 and str(device) == "cpu" and not has_fast_bfloat16()
            dtype = "float32" if is_slow else "auto"  # of a quantized checkpoint only what is not quantized changes
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            folder, trust_remote_code=trust_remote_code, dtype=dtype, device_map=device, output_loading_info=True
        )
    except ConnectionError:
        raise
    # How transformers reports missing or unreadable files of a model, a config that contradicts itself, weights that
    # are cut short, and weights of other shapes.
    except (OSError, StrictDataclassError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"The model '{model_id}' cannot be loaded: {error}") from error
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ValueError(f"The model '{model_id}' lacks {len(missing)} tensors, {missing[0]} among them.")
    return model.eval(), processor
