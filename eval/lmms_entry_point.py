# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What lmms-eval reads whenever it starts, for whatever model: it imports little. setup.cfg names it."""

MODEL_ID = "flashsloth"
CLASS_PATH = "flashsloth.eval.lmms.FlashSlothLmms"


def manifest():
    """The `ModelManifest` of lmms-eval that says where the model's class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, chat_class_path=CLASS_PATH)
