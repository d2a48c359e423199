# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The decoder for runtimes that plan their memory ahead: tokens in, logits out, and its keys and values in buffers of a
fixed length that it writes itself. One program prefills and decodes, because not every binding of ExecuTorch lets two
share their buffers; and it makes the masks of Embedded Query itself, because not every binding has boolean tensors.

Shapes: as in `modeling_flashsloth.py`, and M positions that the buffers hold, K patches of all views.
"""

import torch
from torch import nn
from transformers import StaticCache

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM
from flashsloth.embedded_query_flashsloth import query_context
from flashsloth.export.graphs import cache_shapes
from flashsloth.modeling_flashsloth import CACHE_NAME, FlashSlothImageFeatures


class CachedDecoder(nn.Module):
    """
    Embedding, decoder and head of a model. Its attention is spelled out (`eager`): the fused kernels unfold into more
    operations than that, most of which guard against rows without any key, which no row here is.

    Args:
        model ([`FlashSlothForCausalLM`]): Its attention becomes `eager`.
        max_length (`int`): Positions that the buffers hold, M.

    Raises:
        ValueError: If a layer of the decoder keeps other states than keys and values.
    """

    def __init__(self, model: FlashSlothForCausalLM, max_length: int):
        super().__init__()
        model.set_attn_implementation("eager")
        self.model, self.lm_head, self.max_length = model.model, model.lm_head, max_length
        self.cache = StaticCache(model.config.text_config, max_cache_len=max_length)
        shapes = cache_shapes(model.config)
        for index, layer in enumerate(self.cache.layers):
            keys, values = (
                torch.zeros(1, heads, max_length, width, dtype=model.dtype)
                for heads, width in shapes[2 * index : 2 * index + 2]
            )
            layer.lazy_initialization(keys, values)
            self.register_buffer(f"keys_{index}", layer.keys, persistent=False)
            self.register_buffer(f"values_{index}", layer.values, persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        position: torch.Tensor,
        image_features: torch.Tensor,
        view_mask: torch.Tensor,
        patches: torch.Tensor,
    ) -> torch.Tensor:
        """
        Reads tokens behind those that the buffers hold. A prompt, or the next turn of a chat, is one call; so is each
        token of an answer.

        Args:
            input_ids (`torch.LongTensor` of shape `(1, L)`)
            position (`torch.LongTensor` of shape `(1,)`): How many positions of the buffers count; 0 begins anew.
            image_features (`torch.Tensor` of shape `(1, V, T, D)`): Of all views of the conversation so far.
            view_mask (`torch.LongTensor` of shape `(1, V)`): 1 for each of them; 0 for the zeros that stand for none.
            patches (`torch.Tensor` of shape `(1, K, C)`): Of the same views.

        Returns:
            Logits `(1, 1, vocabulary)` of the token that follows.
        """
        config = self.model.config
        features = FlashSlothImageFeatures(pooler_output=image_features, view_mask=view_mask)
        embeds = self.model._embed_tokens(input_ids, None)
        embeds, num_views = self.model._insert_visual_tokens(input_ids, embeds, features, position)
        context = {}
        if config.num_query_tokens:
            # Every patch is a view of its own: so few zeros as one patch can stand for no image.
            num_patches = num_views * config.num_patches
            context["query_context"] = query_context(config, input_ids, patches.unsqueeze(2), num_patches, position)
            context["keep_query_attentions"] = _spell_out
        for index, layer in enumerate(self.cache.layers):
            layer.keys, layer.values = self.get_buffer(f"keys_{index}"), self.get_buffer(f"values_{index}")
            layer.cumulative_length = position[0].clone()  # the layer adds to it
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) + position
        is_later = torch.arange(self.max_length, device=input_ids.device) > positions.unsqueeze(-1)
        outputs = self.model.language_model(
            inputs_embeds=embeds,
            attention_mask=(is_later * torch.finfo(embeds.dtype).min)[None, None],
            position_ids=positions[None],
            **{CACHE_NAME: self.cache},
            use_cache=True,
            return_dict=True,
            **context,
        )
        return self.lm_head(outputs.last_hidden_state[:, -1:])


def without_images(config: FlashSlothConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`image_features`, `view_mask` and `patches` of a step of decoding, or of a prompt without images."""
    return (
        torch.zeros(1, 1, config.num_visual_tokens, config.text_config.hidden_size),
        torch.zeros(1, 1, dtype=torch.long),
        torch.zeros(1, 1, config.vision_config.hidden_size),
    )


def _spell_out(weights: torch.Tensor) -> None:
    """Whoever asks Embedded Query for its weights gets them without a fused kernel."""
