# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tiny checkpoint in the published layout that the golden cases were computed with, made by its rule."""

import json
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file


GOLDEN = Path(__file__).parent.parent / "data" / "golden"
TOKENIZER = Path(__file__).parent.parent / "data" / "phi2-tokenizer"

BLOCK = 16  # side of a block of one colour in the golden images, in pixels


def read(name: str) -> dict:
    """One of the golden JSON files."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def random_state(key: str) -> np.random.RandomState:
    """The generator of random numbers that a text seeds."""
    return np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """The value of one parameter, which its published name determines."""
    x = random_state(name).randint(-3, 4, size=shape).astype(np.float32) / 2
    if "norm" in name.split(".")[-2] or ".ln_" in name:
        x = 1 + 0.1 * x if name.endswith(".weight") else 0.05 * x
    elif name.endswith(("embed_tokens.weight", "learnable_tokens.token")):
        x = 0.5 * x
    elif "position_embedding" in name or name.endswith("bias"):
        x = 0.05 * x
    else:
        x = x / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(x.astype(np.float32))


def weights() -> dict[str, torch.Tensor]:
    """All parameters, by their published names."""
    return {name: weight(name, shape) for name, shape in read("parameters.json").items()}


def image(key: str, width: int, height: int) -> Image.Image:
    """A golden image: blocks of random colours."""
    blocks = random_state(key).randint(0, 256, size=(height // BLOCK + 2, width // BLOCK + 2, 3)).astype(np.uint8)
    pixels = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width]
    return Image.fromarray(pixels)


def write(folder: Path, tensors: dict[str, torch.Tensor], layout: str = "single", with_tokenizer: bool = True) -> None:
    """
    Writes a published checkpoint folder.

    Args:
        folder (`Path`): where to.
        tensors (`dict`): its weights.
        layout (`str`, *optional*, defaults to `"single"`): or `"sharded"`, `"bin"`, `"sharded bin"`.
        with_tokenizer (`bool`, *optional*, defaults to `True`): whether Phi-2's tokenizer lies beside them.
    """
    folder.mkdir()
    shutil.copy(GOLDEN / "config.json", folder)
    if with_tokenizer:
        for file in TOKENIZER.glob("*.json"):
            shutil.copy(file, folder)
    stem, suffix = ("pytorch_model", ".bin") if layout.endswith("bin") else ("model", ".safetensors")
    save = torch.save if suffix == ".bin" else save_file
    if not layout.startswith("sharded"):
        save(tensors, folder / f"{stem}{suffix}")
        return
    names = list(tensors)
    weight_map = {}
    for index in range(3):
        file_name = f"{stem}-{index + 1:05d}-of-00003{suffix}"
        part = names[index::3]
        save({name: tensors[name] for name in part}, folder / file_name)
        weight_map.update(dict.fromkeys(part, file_name))
    index_file = folder / f"{stem}{suffix}.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
