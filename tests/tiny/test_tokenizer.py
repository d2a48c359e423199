# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tokenizer loses no text, and keeps the tokens that the model's template relies on."""

import pytest


@pytest.mark.parametrize("text", ["Where is the red star?", "Grüße aus Köln", "日本語 🦥", "a\n\tb  c", "\x00\x7f"])
def test_any_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_follow_the_base_vocabulary(tokenizer):
    tokens = ["<learnable>", "</s>", "<image>", "<pad>", *(f"<query_{i}>" for i in range(4))]
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(len(tokenizer) - 8, len(tokenizer)))


def test_digits_and_roles_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("47")[-2:] == ["4", "7"]
    assert len(tokenizer.tokenize("USER:")) == 2 and len(tokenizer.tokenize(" .")) == 1
