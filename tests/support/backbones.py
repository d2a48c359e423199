# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Small backbones that a FlashSloth is composed of: a language model with its tokenizer, and a SigLIP."""

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast, SiglipConfig, SiglipModel


OPTIONS = {"num_query_tokens": 4, "query_layer": 1}

BASE_SIZE = 261  # entries of the base tokenizer


def save_tokenizer(folder):
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["USER: what . . .", "USER: so"], trainer)
    assert tokenizer.get_vocab_size() == BASE_SIZE
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>").save_pretrained(folder)


def save_language_model(folder, **fields):
    """A causal language model in bfloat16 with its tokenizer."""
    sizes = {
        "vocab_size": BASE_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(0)
    model = PhiForCausalLM(PhiConfig(**{**sizes, **fields})).to(torch.bfloat16)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def save_siglip(folder):
    """A SigLIP in float32, both halves."""
    torch.manual_seed(1)
    vision_fields = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 49,
        "patch_size": 8,
    }
    text_fields = {"hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    token_fields = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    siglip = SiglipModel(SiglipConfig(text_config={**text_fields, **token_fields}, vision_config=vision_fields))
    siglip.save_pretrained(folder)
    return siglip
