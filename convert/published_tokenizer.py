# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tokenizer of the published checkpoints: Phi-2's with some of our special tokens."""

import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from flashsloth import FlashSlothConfig
from flashsloth.folders.tokenizer import base_vocabulary_size, special_tokens, token_id_fields
from flashsloth.processing_flashsloth import END_TOKEN, ESCAPE, IMAGE_TOKEN, QUERY_SLOT_TOKEN


PUBLISHED_TOKENS = (QUERY_SLOT_TOKEN, END_TOKEN, IMAGE_TOKEN)
PUBLISHED_PAD_TOKEN = "<|endoftext|>"


def check_token_ids(tokenizer: PreTrainedTokenizerBase, config: FlashSlothConfig, where) -> None:
    """
    Compares a tokenizer with the ids that a published checkpoint was trained with.

    Raises:
        ValueError: If they differ.
    """
    found = token_id_fields(tokenizer, config.num_query_tokens)
    expected = {name: config.to_dict()[name] for name in found}
    if found != expected:
        differing = ", ".join(
            f"{name} {found[name]} instead of {expected[name]}" for name in found if found[name] != expected[name]
        )
        raise ValueError(
            f"The tokenizer in {where} does not fit the checkpoint: {differing}. Its vocabulary has "
            f"{base_vocabulary_size(tokenizer, config.num_query_tokens)} entries without the "
            f"special tokens, Phi-2's has {config.query_slot_token_id}. Pass --tokenizer microsoft/phi-2, or a folder "
            "with it."
        )


def published_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> PreTrainedTokenizerBase:
    """A tokenizer with the special tokens of the published checkpoints only, padding on the right."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    ours = set(special_tokens(len(content["added_tokens"]))) - set(PUBLISHED_TOKENS)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in ours]
    content["padding"] = content["truncation"] = None
    content["normalizer"] = without_escape(content["normalizer"])
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token=PUBLISHED_PAD_TOKEN,
        unk_token=PUBLISHED_PAD_TOKEN,
        pad_token=PUBLISHED_PAD_TOKEN,
        eos_token=END_TOKEN,
        padding_side="right",
        model_max_length=max_length,
    )


def without_escape(normalizer: dict) -> dict | None:
    """The normalizer that the tokenizer had before `add_special_tokens`, in the form of tokenizer.json."""
    steps = [step for step in normalizer["normalizers"] if step.get("pattern") != {"String": ESCAPE}]
    return steps[0] if steps else None
