# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Model folders to the Hub: what is published, the trial before it, the model card, and the upload."""
