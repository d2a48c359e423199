# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Training on TRL: both stages of FlashSloth, adapters, and their data."""
