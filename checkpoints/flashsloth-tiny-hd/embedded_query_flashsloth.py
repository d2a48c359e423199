# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The Embedded Query module (EmbQ), https://huggingface.co/papers/2412.04317, section 3.3: in front of one layer of the
decoder the query tokens attend to their instruction, and then to the un-pooled patches.

Shapes: B rows of the batch, L positions of the sequence, V views of the row that has most, P patches per view, K keys,
C vision width, D decoder width.
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_flashsloth import FlashSlothConfig


HEAD_ALIGNMENT = 8  # elements: what SDPA's memory-efficient kernel asks of the width of a head in 16 bits


class CrossAttention(nn.Module):
    """Multi-head attention with values of another width than the keys, and without an output projection."""

    def __init__(self, hidden_size: int, value_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(value_size, value_size)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            query (`torch.Tensor` of shape `(B, L, hidden_size)`), key (`(B, K, hidden_size)`),
            value (`(B, K, value_size)`), mask (`torch.BoolTensor` of shape `(B, L, K)`): `True` for the keys that a
                position attends to. A position without any gets zeros.

        Returns:
            `(B, L, value_size)`, and the attention weights `(B, heads, L, K)` if asked for.
        """
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        has_keys = mask.any(dim=-1, keepdim=True)
        # softmax over nothing is NaN, also in the gradient: such positions attend to all, and are zeroed afterwards
        safe_mask = (mask | ~has_keys).unsqueeze(1)
        if output_attentions:
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            scores = scores.masked_fill(~safe_mask, torch.finfo(scores.dtype).min)
            weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) * has_keys.unsqueeze(1)
            attended = weights @ value
        else:
            weights, attended = None, _fused_attention(query, key, value, safe_mask)
        return attended.transpose(1, 2).flatten(2) * has_keys, weights


def _fused_attention(query, key, value, mask):
    """
    Attention by a kernel that holds no scores: those of all positions over all patches would be a training run's
    largest tensors. The kernels of SDPA want heads of one width, of a multiple of 8; zeros add nothing to a product.
    """
    width, value_width = query.shape[-1], value.shape[-1]
    padded_width = math.ceil(max(width, value_width) / HEAD_ALIGNMENT) * HEAD_ALIGNMENT
    query, key, value = (F.pad(states, (0, padded_width - states.shape[-1])) for states in (query, key, value))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=width**-0.5)
    return attended[..., :value_width]


class EmbeddedQuery(nn.Module):
    """
    Embedded Query module (paper section 3.3): each query token attends to its instruction, then, with what it found
    there, to the un-pooled patches. It computes the whole sequence and keeps the query tokens: next to the decoder the
    extra work is small, and no shape depends on where the slots are.
    """

    def __init__(self, config: FlashSlothConfig):
        super().__init__()
        text_size, vision_size = config.text_config.hidden_size, config.vision_config.hidden_size
        hidden_size, num_heads = config.query_hidden_size, config.query_num_heads
        self.down_proj = nn.Linear(text_size, hidden_size)
        self.query_norm = nn.LayerNorm(hidden_size)
        self.text_norm = nn.LayerNorm(hidden_size)
        self.text_attention = CrossAttention(hidden_size, hidden_size, num_heads)
        self.patch_proj = nn.Linear(vision_size, hidden_size)
        self.patch_norm = nn.LayerNorm(hidden_size)
        self.patch_attention = CrossAttention(hidden_size, vision_size, num_heads)
        self.up_proj = nn.Linear(vision_size, text_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        patches: torch.Tensor,
        query_mask: torch.Tensor,
        instruction_mask: torch.Tensor,
        patch_mask: torch.Tensor,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, L, D)`)

            The other arguments are the fields of [`QueryContext`].

        Returns:
            `hidden_states` with the query tokens' states updated, and the weights over patches `(B, heads, L, V * P)`
            if asked for.
        """
        text = self.down_proj(hidden_states)
        query, text = self.query_norm(text), self.text_norm(text)
        query, _ = self.text_attention(query, text, text, instruction_mask)
        patches = patches.to(hidden_states.dtype)
        keys = self.patch_norm(self.patch_proj(patches))
        attended, weights = self.patch_attention(query, keys, patches, patch_mask, output_attentions)
        query_mask = query_mask.unsqueeze(-1)
        hidden_states = torch.where(query_mask, hidden_states + self.up_proj(attended), hidden_states)
        return hidden_states, None if weights is None else weights * query_mask.unsqueeze(1)


class QueryContext(NamedTuple):
    """What [`EmbeddedQuery`] needs besides the hidden states: immutable, and a pytree, for sharding and export."""

    patches: torch.Tensor  # (B, V * P, C): un-pooled patches of each row's images
    query_mask: torch.Tensor  # (B, L): query tokens with an image before them
    instruction_mask: torch.Tensor  # (B, L, L): the instruction of each position
    patch_mask: torch.Tensor  # (B, L, V * P): the patches of the images before each position


def query_context(
    config: FlashSlothConfig,
    input_ids: torch.Tensor,
    patches: torch.Tensor,
    num_views: torch.Tensor,
    past_length: int | torch.Tensor,
) -> QueryContext:
    """
    Finds what each query token attends to. Its instruction is the text between its slot and the last image or the last
    `</s>` before that, whichever is nearer. If there is none (the image ends the message), it is the text of the whole
    turn. Its patches are those of all images before it.

    Args:
        config ([`FlashSlothConfig`]), input_ids (`torch.LongTensor` of shape `(B, L)`)
        patches (`torch.Tensor` of shape `(B, V, P, C)`): un-pooled patches.
        num_views (`torch.LongTensor` of shape `(B, L)`): how many of its row's views have begun by each position.
        past_length (`int` or `torch.Tensor`): positions in the cache.
    """
    is_query = is_query_token(config, input_ids)
    is_image = input_ids == config.image_token_id
    is_padding = input_ids == config.pad_token_id
    is_text = ~(is_query | is_image | is_padding)
    is_end = torch.stack([input_ids == token_id for token_id in config.eos_token_ids]).any(dim=0)
    # In tokens: padding may stand anywhere, also where a row's earlier answer ended before the others'.
    position = (~is_padding).cumsum(dim=-1) - 1

    def start_after(marker, length):  # the position `length` tokens after the last marker, 0 before the first
        number = marker.cumsum(dim=-1)
        starts = torch.where(marker, position + 1 + length, 0)
        # every start is stored under its marker's number; ONNX has no cumulative maximum
        return F.pad(torch.zeros_like(starts), (1, 0)).scatter(-1, number * marker, starts).gather(-1, number)

    # Input that continues a cache is taken to start right after </s>, as a chat's next turn does.
    turn_start = start_after(is_end, config.turn_prefix_length)
    turn_start = turn_start.clamp(min=(past_length > 0) * config.turn_prefix_length)
    start = torch.maximum(turn_start, start_after(is_image, config.image_suffix_length))
    slot_start = position - (input_ids - config.first_query_token_id)
    key = position.unsqueeze(1)
    turn_mask = is_text.unsqueeze(1) & (key < slot_start.unsqueeze(-1)) & (key >= turn_start.unsqueeze(-1))
    instruction_mask = turn_mask & (key >= start.unsqueeze(-1))
    instruction_mask = instruction_mask | (turn_mask & ~instruction_mask.any(dim=-1, keepdim=True))

    view_mask = torch.arange(patches.shape[1], device=input_ids.device) < num_views.unsqueeze(-1)  # (B, L, V)
    return QueryContext(
        patches=patches.flatten(1, 2),
        query_mask=is_query & (num_views > 0),
        instruction_mask=instruction_mask,
        patch_mask=view_mask.repeat_interleave(patches.shape[2], dim=-1),
    )


def is_query_token(config: FlashSlothConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """Which ids `(B, L)` are query tokens."""
    first = config.first_query_token_id
    return (input_ids >= first) & (input_ids < first + config.num_query_tokens)


__all__ = ["EmbeddedQuery", "QueryContext", "is_query_token", "query_context"]
