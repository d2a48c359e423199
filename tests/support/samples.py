# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What tests share: a FlashSloth of a few thousand parameters, its tokenizer, images and conversations."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM
from flashsloth.convert import add_special_tokens


NUM_QUERY_TOKENS = 3

# What makes a run of a shipped stage small enough for a test.
QUICK_RUN = (
    "warmup_steps=0",
    "global_batch_size=4",
    "per_device_train_batch_size=2",
    "dataloader_num_workers=0",
    "disable_tqdm=true",
    "use_cpu=true",
    "bf16=false",
    "logging_steps=1",
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and FlashSloth's special tokens behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    return add_special_tokens(tokenizer, NUM_QUERY_TOKENS, max_length=1024)


def make_config(**overrides) -> FlashSlothConfig:
    """256 byte tokens, then <learnable>, </s>, <image>, <pad> and three query tokens; 36 patches, 4 visual tokens."""
    text_config = {
        "model_type": "phi",
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "pad_token_id": 259,
        "eos_token_id": 257,
        # large weights: with small ones every prompt gets the same answer, and tests could not tell them apart
        "initializer_range": 0.3,
    }
    vision_config = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 4,
        "vision_use_head": False,
    }
    fields = {
        "pooling_size": 3,
        "pooling_dropout": 0.0,
        "num_query_tokens": NUM_QUERY_TOKENS,
        "query_layer": 1,
        "query_hidden_size": 8,
        "query_num_heads": 2,
        "query_base_token_id": 13,
        "query_slot_token_id": 256,
        "eos_token_id": 257,
        "image_token_id": 258,
        "pad_token_id": 259,
        "first_query_token_id": 260,
        "bos_token_id": None,
        "initializer_range": 0.3,
    }
    fields.update(overrides)
    text_config.update(fields.pop("text_config", {}))
    vision_config.update(fields.pop("vision_config", {}))
    return FlashSlothConfig(text_config=text_config, vision_config=vision_config, **fields)


def make_model(config: FlashSlothConfig | None = None, seed: int = 0) -> FlashSlothForCausalLM:
    """A random model, the same for the same seed."""
    torch.manual_seed(seed)
    model = FlashSlothForCausalLM(config or make_config()).eval()
    model.generation_config.suppress_tokens = model.config.placeholder_token_ids
    model.generation_config.pad_token_id = model.config.pad_token_id
    return model


def make_image(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """An image of noise, another one for each seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode_image(image: Image.Image, format: str = "PNG", **kwargs) -> bytes:
    """The bytes of an image file."""
    buffer = BytesIO()
    image.save(buffer, format, **kwargs)
    return buffer.getvalue()


def user(*parts) -> dict:
    """A user message; a string becomes text, anything else an image."""
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict:
    """An assistant message."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def prepare(processor, conversations, **kwargs):
    """Model inputs for one conversation or a batch, padded, with `view_mask`; `kwargs` are those of the processor."""
    return processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "return_view_mask": True, **kwargs},
    )
