# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What the benchmarks measure on: random images, weights and tokenizers, and a LLaVA without compression."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from tqdm import tqdm
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM
from flashsloth.convert.published_tokenizer import PUBLISHED_PAD_TOKEN
from flashsloth.folders.tensors import LazyTensor, write_tensors


WEIGHT_STD = 0.02


def random_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def random_model(config: FlashSlothConfig, device: torch.device, dtype: torch.dtype) -> FlashSlothForCausalLM:
    """A model with random weights, in evaluation mode."""
    with no_init_weights(), device:
        model = FlashSlothForCausalLM._from_config(config, dtype=dtype)
    for parameter in tqdm(list(model.parameters()), desc="random weights", unit="tensor", file=sys.stderr):
        parameter.data.normal_(std=WEIGHT_STD)
    return model.eval()


def random_weights(model: PreTrainedModel) -> dict[str, LazyTensor]:
    """Random weights in the dtype of the model's config, each made when it is written."""
    dtype = model.config.dtype

    def random(shape):
        return torch.empty(shape).normal_(std=WEIGHT_STD).to(dtype)

    return {
        name: LazyTensor(tuple(tensor.shape), dtype, lambda shape=tensor.shape: random(shape))
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }


def weight_bytes(tensors: Mapping[str, LazyTensor]) -> int:
    return sum(tensor.num_bytes for tensor in tensors.values())


def write_random_model(model: PreTrainedModel, folder: Path) -> None:
    """Writes the config and random weights of a model, one tensor at a time."""
    folder.mkdir()
    model.config.save_pretrained(folder)
    torch.manual_seed(0)
    write_tensors(random_weights(model), folder)


def uncompressed_peer(model: FlashSlothForCausalLM) -> LlavaForConditionalGeneration:
    """A LLaVA with the same tower, decoder and head, of which every patch is a visual token. Its projector is new."""
    config = LlavaConfig(
        vision_config=model.config.vision_config,
        text_config=model.config.text_config,
        image_token_index=model.config.image_token_id,
        image_seq_length=model.config.num_patches,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    with torch.device("meta"):
        peer = LlavaForConditionalGeneration(config)
    peer.model.vision_tower = model.model.vision_tower
    peer.model.multi_modal_projector.to_empty(device=model.device)
    for parameter in peer.model.multi_modal_projector.to(model.dtype).parameters():
        nn.init.normal_(parameter, std=WEIGHT_STD)
    peer.model.language_model = model.model.language_model
    peer.lm_head = model.lm_head
    return peer.eval()


def phi_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with as many entries as Phi-2's, and with its ids where the published layout needs them."""
    published = FlashSlothConfig()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "."), ("U", "S"), ("US", "E"), ("USE", "R")]
    words = {published.query_base_token_id: "Ġ.", published.bos_token_id: PUBLISHED_PAD_TOKEN}
    others = [*alphabet, *("".join(pair) for pair in merges[1:])]
    for index in range(published.query_slot_token_id):
        if index not in words:
            words[index] = others.pop(0) if others else f"<unused_{index}>"
    backend = Tokenizer(models.BPE(vocab={word: index for index, word in words.items()}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=PUBLISHED_PAD_TOKEN)
