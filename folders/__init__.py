# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Model folders: read without trust, downloaded, and written whole or not at all."""
