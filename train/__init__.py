# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Training: both stages on TRL, and the tiny checkpoint from nothing."""
