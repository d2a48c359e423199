# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Values in messages: an error that quotes a whole image in base64 hides what it says."""

LIMIT = 300  # characters


def shorten(text: str, limit: int = LIMIT) -> str:
    """Leaves out the middle of a long text: names of files differ at the end, and errors end with the remedy."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"
