# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tiny checkpoint that the package ships: its pictures, questions, backbones, training and evaluation."""
