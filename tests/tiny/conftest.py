# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A small tokenizer of the recipe."""

import pytest

from flashsloth.tiny.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """Made from the text of 60 scenes, with 600 byte-level tokens."""
    return train_tokenizer(vocabulary=600, scenes=60)
