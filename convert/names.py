# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Names of tensors in other layouts and here. A table pairs how names begin there and here. On neither side is one
beginning that of another, so that a table reads both ways.
"""

from collections.abc import Mapping

from flashsloth.folders.tensors import LazyTensor


Names = tuple[tuple[str, str], ...]

PUBLISHED_TOWER = "model.vision_tower.vision_tower.vision_model."

PUBLISHED: Names = (
    (f"{PUBLISHED_TOWER}embeddings.", "model.vision_tower.embeddings."),
    (f"{PUBLISHED_TOWER}encoder.", "model.vision_tower.encoder."),
    ("model.pooling.mlp.0.", "model.pooling.fc1."),
    ("model.pooling.mlp.3.", "model.pooling.fc2."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.learnable_tokens.token", "model.query_tokens.weight"),
    ("model.lqformer.down_projector_learnable_text.", "model.embedded_query.down_proj."),
    ("model.lqformer.down_projector_image.", "model.embedded_query.patch_proj."),
    ("model.lqformer.up_projector.", "model.embedded_query.up_proj."),
    ("model.lqformer.layers.0.t2q_attn.", "model.embedded_query.text_attention."),
    ("model.lqformer.layers.0.i2q_attn.", "model.embedded_query.patch_attention."),
    ("model.lqformer.layers.0.ln_q.", "model.embedded_query.query_norm."),
    ("model.lqformer.layers.0.ln_text.", "model.embedded_query.text_norm."),
    ("model.lqformer.layers.0.ln_kv.", "model.embedded_query.patch_norm."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.final_layernorm.", "model.language_model.final_layernorm."),
    ("lm_head.", "lm_head."),
)

# The two models that `compose` joins, as transformers saves them.
LANGUAGE_MODEL: Names = (("model.", "model.language_model."), ("lm_head.", "lm_head."))
VISION_MODEL: Names = (("embeddings.", "model.vision_tower.embeddings."), ("encoder.", "model.vision_tower.encoder."))


def backwards(table: Names) -> Names:
    """The table for the way back."""
    return tuple((ours, theirs) for theirs, ours in table)


def rename(name: str, table: Names) -> str | None:
    """A tensor's name on the other side of a table, or `None` if the table does not have it."""
    for old, new in table:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None


def renamed(tensors: Mapping[str, LazyTensor], table: Names) -> dict[str, LazyTensor]:
    """Tensors under their names on the other side; those that the table does not have keep theirs."""
    return {rename(name, table) or name: tensor for name, tensor in tensors.items()}
