# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Model folders: written whole or not at all, read without trust, downloaded, with their provenance."""
