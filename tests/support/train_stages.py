# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Trains stages one after the other in the same processes, since a launch spends most of its time on imports:

    torchrun --nproc_per_node 2 tests/support/train_stages.py CONFIG.yaml [CONFIG.yaml ...]
"""

import sys

from flashsloth import cli


if __name__ == "__main__":
    sys.exit(any(cli.main(["train", config]) for config in sys.argv[1:]))
