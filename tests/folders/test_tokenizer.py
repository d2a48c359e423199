# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Tokenizers of folders, and the special tokens that they get."""

import json

import golden_checkpoint
import pytest
from backbones import BASE_SIZE, save_tokenizer
from model_folders import DEEP, error_of
from transformers import AutoTokenizer

from flashsloth.folders.tokenizer import add_special_tokens, base_vocabulary_size, load_tokenizer, token_id_fields


def test_special_tokens_are_added_behind_the_others(tmp_path):
    save_tokenizer(tmp_path)
    base = load_tokenizer(tmp_path, remedy="")
    tokenizer = add_special_tokens(base, num_query_tokens=4, max_length=512)
    assert base_vocabulary_size(base, 4) == base_vocabulary_size(tokenizer, 4) == len(base) == BASE_SIZE
    assert token_id_fields(tokenizer, 4) == {
        "query_slot_token_id": BASE_SIZE,
        "eos_token_id": BASE_SIZE + 1,
        "image_token_id": BASE_SIZE + 2,
        "pad_token_id": BASE_SIZE + 3,
        "first_query_token_id": BASE_SIZE + 4,
    }
    assert len(tokenizer) == BASE_SIZE + 8 and tokenizer.padding_side == "left"
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == ("</s>", "<pad>", 512)


def test_query_tokens_must_be_consecutive(tmp_path):
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path, remedy="")
    tokenizer.add_tokens(["<query_1>"])
    assert "must have consecutive ids" in error_of(token_id_fields, add_special_tokens(tokenizer, 2), 2)


def test_added_tokens_keep_text_as_it_was():
    base = AutoTokenizer.from_pretrained(golden_checkpoint.TOKENIZER)
    ours = add_special_tokens(base)
    text = "Ünïcode  spaces\t\n    def f(x): 日本語 🦥 <imag e>"
    assert ours.encode(text) == base.encode(text)
    assert len(base) == 50295 and len(ours) == 50308


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "cannot be read"),
        ("tokenizer.json", "[]", "cannot be read"),
        ("tokenizer.json", "[" * DEEP, "cannot be read"),
        ("tokenizer.json", b"\xff\xfe", "cannot be read"),
        ("tokenizer.json", None, "holds no tokenizer (neither tokenizer.json nor vocab.json)"),
        ("tokenizer_config.json", "[]", "cannot be read"),
        ("tokenizer_config.json", '{"a":' * DEEP, "cannot be read"),
    ],
)
def test_damaged_tokenizers(file, content, message, tmp_path):
    save_tokenizer(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    found = error_of(load_tokenizer, tmp_path, "Pass another one.")
    assert message in found and str(tmp_path) in found
    assert ("Pass another one." in found) == (content is None)


def test_patterns_that_take_for_ever(tmp_path, capfd):
    save_tokenizer(tmp_path)
    load_tokenizer(tmp_path, "")
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    fields["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(([a-z ]+)+)+[0-9]{9}"}, "content": ""}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    assert "tokenizer.json does not work (PanicException: Onig" in error_of(load_tokenizer, tmp_path, "")
    assert capfd.readouterr().err == ""  # the library writes its stack there


def test_tokenizers_of_another_kind(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    assert "holds only a sentencepiece model (tokenizer.model)" in error_of(load_tokenizer, tmp_path, "")
    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "phi", "num_labels": 1000000000000}')
    assert "config.json has num_labels 1000000000000; no model has more" in error_of(load_tokenizer, tmp_path, "")
