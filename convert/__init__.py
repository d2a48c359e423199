# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Model folders from other layouts: published checkpoints, there and back, and new models from two backbones."""

from flashsloth.convert.composition import compose
from flashsloth.convert.published import convert_checkpoint, to_original
from flashsloth.folders.tokenizer import add_special_tokens


__all__ = ["add_special_tokens", "compose", "convert_checkpoint", "to_original"]
