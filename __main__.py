# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`python -m flashsloth`, the same as the `flashsloth` command."""

import sys

from flashsloth.cli import main


if __name__ == "__main__":
    sys.exit(main())
