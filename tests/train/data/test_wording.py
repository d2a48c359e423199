# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Long values are shortened in messages, and keep both ends."""

from flashsloth.train.data.wording import LIMIT, shorten


def test_both_ends_stay():
    assert shorten("short") == "short" and shorten("x" * LIMIT) == "x" * LIMIT
    text = shorten("begin" + "x" * 10**6 + "end")
    assert len(text) <= LIMIT and text.startswith("begin") and text.endswith("end") and " ... " in text
