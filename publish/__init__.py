# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Model folders to the Hub: the release, its trial, the model card and the upload."""
