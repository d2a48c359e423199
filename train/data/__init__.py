# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The data of a training run: opened, brought into one form, validated, ordered and streamed."""

from flashsloth.train.data.sources import load_data


__all__ = ["load_data"]
