# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Phi-2's tokenizer with the published special tokens."""

import os
import shutil

import golden_checkpoint
import pytest
from model_folders import read_json
from samples import make_tokenizer
from transformers import AutoTokenizer

from flashsloth.convert import add_special_tokens, convert_checkpoint
from flashsloth.convert.published_tokenizer import PUBLISHED_TOKENS, published_tokenizer


def test_tokenizer_that_has_some_of_the_tokens(source, converted, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(golden_checkpoint.TOKENIZER)
    tokenizer.add_tokens(["<learnable>"])
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    ours = convert_checkpoint(source, tmp_path / "ours", tokenizer=tmp_path / "tokenizer")
    found, expected = (read_json(folder / "tokenizer.json")["added_tokens"] for folder in (ours, converted))
    assert found == expected


def test_tokenizer_errors(source, weights, tmp_path):
    shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match="holds no tokenizer.*--tokenizer"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(golden_checkpoint.TOKENIZER)
    tokenizer.add_tokens(["something else"])
    tokenizer.save_pretrained(tmp_path / "larger")
    with pytest.raises(ValueError, match="query_slot_token_id 50296 instead of 50295.*50296 entries.*--tokenizer"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours", tokenizer=tmp_path / "larger")
    make_tokenizer().save_pretrained(tmp_path / "smaller")
    with pytest.raises(ValueError, match="query_slot_token_id 256 instead of 50295.*256 entries.*--tokenizer"):
        convert_checkpoint(tmp_path / "source", tmp_path / "ours", tokenizer=tmp_path / "smaller")
    assert os.listdir(tmp_path) and not (tmp_path / "ours").exists()


def test_there_and_back():
    base = AutoTokenizer.from_pretrained(golden_checkpoint.TOKENIZER)
    back = published_tokenizer(add_special_tokens(base), 2048)
    assert back.padding_side == "right" and len(back) == len(base) + len(PUBLISHED_TOKENS)
    text = "Ünïcode  spaces <image> and </s>"
    assert back.decode(back.encode(text)) == text
    assert back.backend_tokenizer.normalizer is None
