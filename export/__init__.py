# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Models for small machines and browsers: `flashsloth export`."""
