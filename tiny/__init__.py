# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The recipe of the tiny checkpoints that the package ships: images, questions, backbones, training, evaluation."""
