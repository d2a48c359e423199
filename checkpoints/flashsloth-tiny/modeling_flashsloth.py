# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
FlashSloth (https://huggingface.co/papers/2412.04317): a SigLIP tower, Spatial Attention Pooling, a projector and a
decoder whose query tokens attend to the un-pooled patches.

| paper                            | here                                | published checkpoint                 |
| -------------------------------- | ----------------------------------- | ------------------------------------ |
| vision encoder                   | `vision_tower` (SigLIP)             | `vision_tower.vision_tower`          |
| Spatial Attention Pooling (SAP)  | `pooling` (`SpatialPooling`)        | `pooling`                            |
| projector                        | `multi_modal_projector`             | `mm_projector`                       |
| learnable query tokens           | `query_tokens` (`QueryTokens`)      | `learnable_tokens`                   |
| Embedded Query module (EmbQ)     | `embedded_query` (`EmbeddedQuery`)  | `lqformer`                           |
| language model                   | `language_model` (Phi), `lm_head`   | `embed_tokens`, `layers`, ...        |

Shapes: B rows of the batch, L positions of the sequence, N views of the whole batch, V views of the row that has
most, P patches per view, T visual tokens per view, R patches per pooled region, C vision width, Q width of EmbQ,
D decoder width. No shape depends on the values of a tensor, so prefill and decode compile and export as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import transformers
from packaging import version
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, ModelOutput
from transformers.utils import can_return_tuple, torch_compilable_check

from .configuration_flashsloth import FlashSlothConfig


# transformers 5.24 renamed the key-value cache, as an argument and in outputs. This is its name there.
CACHE_NAME = "cache" if version.parse(transformers.__version__) >= version.parse("5.24.0.dev0") else "past_key_values"
HEAD_ALIGNMENT = 8  # elements: what SDPA's memory-efficient kernel asks of the width of a head in 16 bits


@dataclass
class FlashSlothImageFeatures(ModelOutput):
    """
    The encoded images of a batch, by row. Encode once with `get_image_features`, then pass the result to `forward` or
    `generate` as `mm_encoder_outputs={"image": features}` in every turn. A row's real views come first; padding, which
    no position reads, follows them. All fields are `None` for a text-only batch.

    Args:
        last_hidden_state (`torch.Tensor` of shape `(B, V, P, C)`): un-pooled patches, for the query tokens.
        pooler_output (`torch.Tensor` of shape `(B, V, T, D)`): projected visual tokens, for the placeholders.
        view_mask (`torch.LongTensor` of shape `(B, V)`): 1 for each real view of a row.
        pooling_weights (`torch.Tensor` of shape `(B, V, T, R)`): share of each patch in its visual token, `None` with
            `pooling_mode="none"`.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    view_mask: torch.Tensor | None = None
    pooling_weights: torch.Tensor | None = None


@dataclass
class FlashSlothModelOutputWithPast(BaseModelOutputWithPast):
    """
    Args:
        image_hidden_states (`torch.Tensor` of shape `(B, V, T, D)`, *optional*): projected visual tokens.
        pooling_weights (`torch.Tensor` of shape `(B, V, T, R)`, *optional*): see [`FlashSlothImageFeatures`].
        query_attentions (`torch.Tensor` of shape `(B, heads, L, V, P)`, *optional*, with
            `output_query_attentions=True`): attention weights of the query tokens over the patches. Zero at positions
            that hold no query token, and in rows without an image.
    """

    image_hidden_states: torch.Tensor | None = None
    pooling_weights: torch.Tensor | None = None
    query_attentions: torch.Tensor | None = None


@dataclass
class FlashSlothCausalLMOutputWithPast(CausalLMOutputWithPast):
    """[`FlashSlothModelOutputWithPast`] with `loss` and `logits` of shape `(B, L, vocabulary)`."""

    image_hidden_states: torch.Tensor | None = None
    pooling_weights: torch.Tensor | None = None
    query_attentions: torch.Tensor | None = None


class SpatialPooling(nn.Module):
    """
    Turns every `pooling_size` x `pooling_size` region of patches into one visual token: their sum, weighted by a
    softmax over learned scores (Spatial Attention Pooling, paper section 3.2), their average, or no pooling at all.
    """

    def __init__(self, config: FlashSlothConfig):
        super().__init__()
        self.mode, self.size, self.grid_size = config.pooling_mode, config.pooling_size, config.grid_size
        if self.mode == "attention":
            hidden_size = config.vision_config.hidden_size
            self.fc1 = nn.Linear(hidden_size, hidden_size)
            self.dropout = nn.Dropout(config.pooling_dropout)
            self.fc2 = nn.Linear(hidden_size, 1)

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            patches (`torch.Tensor` of shape `(N, P, C)`): row by row over the grid.

        Returns:
            The visual tokens `(N, T, C)`, regions row by row, and the weights `(N, T, R)`.
        """
        if self.mode == "none":
            return patches, None
        side = self.grid_size // self.size
        regions = patches.unflatten(1, (side, self.size, side, self.size)).transpose(2, 3)
        regions = regions.flatten(3, 4).flatten(1, 2)  # (N, T, R, C)
        if self.mode == "average":
            weights = regions.new_full(regions.shape[:-1], 1 / regions.shape[2])
        else:
            scores = self.fc2(self.dropout(F.relu(self.fc1(regions)))).squeeze(-1)
            weights = scores.softmax(dim=-1, dtype=torch.float32).to(patches.dtype)
        return (weights.unsqueeze(-2) @ regions).squeeze(-2), weights


class MultiModalProjector(nn.Module):
    """Maps visual tokens from the vision width to the decoder width: linear, activation, linear."""

    def __init__(self, config: FlashSlothConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)

    def forward(self, visual_tokens: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(visual_tokens)))


class QueryTokens(nn.Embedding):
    """The learned vectors `(num_query_tokens, D)`. A module of its own, so that PEFT's `modules_to_save` finds it."""


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
    is_query = _is_query_token(config, input_ids)
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


class FlashSlothPreTrainedModel(PreTrainedModel):
    config_class = FlashSlothConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["SpatialPooling", "EmbeddedQuery"]
    _skip_keys_device_placement = ["past_key_values", "cache", "query_context"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def post_init(self):
        super().post_init()
        # The towers list modules that they may have; FSDP stops at a name that the model lacks.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, QueryTokens):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))  # as published; the bound is 1 / sqrt(D)
        else:
            super()._init_weights(module)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers searches this file for its attention interface, which both towers use, in files of their own.
        return True

    def save_pretrained(self, save_directory, *args, **kwargs):
        # Tensors keep the names of the modules. By default transformers undoes the renamings of loading, but also
        # others if DeepSpeed partitioned the model, and it cannot undo a quantization.
        kwargs.setdefault("save_original_format", False)
        return super().save_pretrained(save_directory, *args, **kwargs)


class FlashSlothModel(FlashSlothPreTrainedModel):
    """The multimodal backbone: everything but the language-model head."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # a generating model's folder loads as a backbone

    def __init__(self, config: FlashSlothConfig):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        # Patches are taken before the tower's last norm; without parameters of its own it needs no special case.
        self.vision_tower.post_layernorm = nn.Identity()
        self.pooling = SpatialPooling(config)
        self.multi_modal_projector = MultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        if config.num_query_tokens:
            self.query_tokens = QueryTokens(config.num_query_tokens, config.text_config.hidden_size)
            self.embedded_query = EmbeddedQuery(config)
            # A hook leaves the decoder's own code, its caches and its checkpointing as they are.
            query_layer = self.language_model.layers[config.query_layer]
            query_layer.register_forward_pre_hook(self._update_query_tokens, with_kwargs=True)
        self.post_init()

    def get_image_features(
        self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None, **kwargs
    ) -> FlashSlothImageFeatures:
        """
        Encodes, pools and projects the views of a batch.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_size, image_size)`): the views of all rows, one row
                after the other; `N` may be 0.
            view_mask (`torch.LongTensor` of shape `(B, V)`, *optional*): 1 for each view of a row, 0 for none; its
                sum is `N`. Without it all views belong to one row.

        Raises:
            ValueError: If `view_mask` counts another number of views than `pixel_values` holds.
        """
        num_views = pixel_values.shape[0]
        if view_mask is None:
            view_mask = torch.ones(1, num_views, dtype=torch.long, device=pixel_values.device)
        _check_values(
            view_mask.sum() == num_views,
            lambda: (
                f"view_mask counts {int(view_mask.sum())} views, but pixel_values holds {num_views}. Pass both as "
                "the processor returned them."
            ),
        )
        if num_views == 0:
            return FlashSlothImageFeatures()
        patches = self.vision_tower(pixel_values.to(self.vision_tower.dtype)).last_hidden_state  # (N, P, C)
        visual_tokens, weights = self.pooling(patches)
        view_index, view_mask = _rows_of_views(view_mask, num_views)
        return FlashSlothImageFeatures(
            last_hidden_state=_by_row(patches, view_index),
            pooler_output=_by_row(self.multi_modal_projector(visual_tokens), view_index),
            view_mask=view_mask,
            pooling_weights=None if weights is None else _by_row(weights, view_index),
        )

    def _embed_tokens(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeds text; a query token becomes its learned vector plus the embedding of `query_base_token_id`."""
        config = self.config
        if not config.num_query_tokens:
            return self.get_input_embeddings()(input_ids)
        is_query, base_token_id = _is_query_token(config, input_ids), config.query_base_token_id
        token_ids = input_ids if base_token_id is None else input_ids.masked_fill(is_query, base_token_id)
        inputs_embeds = self.get_input_embeddings()(token_ids)
        query_index = (input_ids - config.first_query_token_id).clamp(0, config.num_query_tokens - 1)
        query_embeds = self.query_tokens(query_index).to(inputs_embeds.device, inputs_embeds.dtype)
        if base_token_id is not None:
            query_embeds = query_embeds + inputs_embeds
        return torch.where(is_query.unsqueeze(-1), query_embeds, inputs_embeds)

    def _insert_visual_tokens(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, features: FlashSlothImageFeatures, past_length
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Puts the visual tokens in their placeholders' positions. With a cache the first views of a row may already be
        in it: the placeholders in this input then take the last views.

        Returns:
            `inputs_embeds` with visual tokens, `(B, L, D)`, and how many views have begun by each position, `(B, L)`.
        """
        is_image = input_ids == self.config.image_token_id
        image_count = is_image.cumsum(dim=-1)
        tokens_per_view = self.config.num_visual_tokens
        num_tokens, num_features = image_count[:, -1], features.view_mask.sum(dim=-1) * tokens_per_view
        _check_values(
            ((num_tokens == num_features) | ((num_tokens < num_features) & (past_length > 0))).all(),
            lambda: (
                f"Image features and image tokens do not match: the rows' prompts hold {num_tokens.tolist()} "
                f"image tokens, their images make {num_features.tolist()}. Pass input_ids, pixel_values and "
                "view_mask as the processor returned them, untruncated."
            ),
        )
        image_count = image_count + (num_features - num_tokens).unsqueeze(-1)
        visual_tokens = features.pooler_output.flatten(1, 2).to(inputs_embeds.device, inputs_embeds.dtype)
        index = (image_count - 1).clamp(0, visual_tokens.shape[1] - 1).unsqueeze(-1)
        visual_tokens = visual_tokens.gather(1, index.expand(-1, -1, visual_tokens.shape[-1]))
        inputs_embeds = torch.where(is_image.unsqueeze(-1), visual_tokens, inputs_embeds)
        return inputs_embeds, (image_count + tokens_per_view - 1) // tokens_per_view

    def _update_query_tokens(self, query_layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Runs before the query layer, on the keyword arguments that `forward` gives to the decoder."""
        context, keep = kwargs.pop("query_context", None), kwargs.pop("keep_query_attentions", None)
        if context is None:
            return args, kwargs
        hidden_states, weights = self.embedded_query(args[0], *context, output_attentions=keep is not None)
        if keep is not None:
            keep(weights)
        return (hidden_states, *args[1:]), kwargs

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        view_mask: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, FlashSlothImageFeatures] | None = None,
        output_query_attentions: bool = False,
        cache: Cache | None = None,
        **kwargs,
    ) -> FlashSlothModelOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`): with every placeholder expanded by the processor.
            pixel_values (`torch.Tensor` of shape `(N, 3, image_size, image_size)`, *optional*): views of all rows.
            view_mask (`torch.LongTensor` of shape `(B, V)`, *optional*): see `get_image_features`. Without it the
                views are split evenly over the rows.
            inputs_embeds (`torch.Tensor` of shape `(B, L, D)`, *optional*): used as they are, without images.
            mm_encoder_outputs (`dict`, *optional*): `{"image": FlashSlothImageFeatures}` in place of `pixel_values`.
                Holds all views of a row, those already in the cache too.
            output_query_attentions (`bool`, *optional*, defaults to `False`): whether to return `query_attentions`.
            cache (`Cache`, *optional*): keys and values of earlier positions; `past_key_values` is the name that
                transformers used before 5.24.

        Raises:
            ValueError: If not exactly one of `input_ids` and `inputs_embeds` is given, if images come twice or with
                `inputs_embeds`, or if the images do not fit the placeholders.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        cache = past_key_values if cache is None else cache
        features = self._resolve_features(input_ids, pixel_values, view_mask, mm_encoder_outputs)
        if inputs_embeds is None:
            inputs_embeds = self._embed_tokens(input_ids)
        query_attentions = []
        if features is not None:
            patches = features.last_hidden_state
            past_length = 0 if cache is None else cache.get_seq_length()
            inputs_embeds, num_views = self._insert_visual_tokens(input_ids, inputs_embeds, features, past_length)
            if self.config.num_query_tokens:
                kwargs["query_context"] = query_context(self.config, input_ids, patches, num_views, past_length)
                kwargs["keep_query_attentions"] = query_attentions.append if output_query_attentions else None

        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        return FlashSlothModelOutputWithPast(
            **outputs,
            image_hidden_states=None if features is None else features.pooler_output,
            pooling_weights=None if features is None else features.pooling_weights,
            query_attentions=query_attentions[0].unflatten(-1, patches.shape[1:3]) if query_attentions else None,
        )

    def _resolve_features(self, input_ids, pixel_values, view_mask, mm_encoder_outputs):
        """The batch's image features from either source; `None` for a batch without images."""
        features = (mm_encoder_outputs or {}).get("image")
        if features is not None and pixel_values is not None:
            raise ValueError("Pass pixel_values or mm_encoder_outputs, not both: each holds the same images.")
        has_pixels = pixel_values is not None and pixel_values.shape[0] > 0
        if input_ids is None and (has_pixels or features is not None):
            source = "pixel_values" if has_pixels else "mm_encoder_outputs"
            raise ValueError(f"{source} need input_ids: inputs_embeds do not show where the images go.")
        if has_pixels:
            if view_mask is None:
                num_rows, num_views = input_ids.shape[0], pixel_values.shape[0]
                if num_views % num_rows:
                    raise ValueError(
                        f"{num_views} views cannot be split evenly over {num_rows} rows: pass view_mask, as the "
                        "processor returns it."
                    )
                view_mask = input_ids.new_ones(num_rows, num_views // num_rows)
            features = self.get_image_features(pixel_values, view_mask)
        if features is not None and features.pooler_output is not None:
            if features.last_hidden_state is None or features.view_mask is None:
                raise ValueError(
                    "mm_encoder_outputs lack last_hidden_state or view_mask: pass what get_image_features returned, "
                    "and no prefill_chunk_size (an instruction and its query tokens must come in one piece)."
                )
            return features
        # One token is a decoding step, in which the check would make the device wait for the host.
        if input_ids is not None and input_ids.shape[1] > 1:
            num_tokens = (input_ids == self.config.image_token_id).sum()
            _check_values(
                num_tokens == 0,
                lambda: (
                    f"Image features and image tokens do not match: the prompts hold {int(num_tokens)} image "
                    "tokens, but no pixel_values came with them."
                ),
            )
        return None


class FlashSlothForCausalLM(FlashSlothPreTrainedModel, GenerationMixin):
    """FlashSloth with its language-model head."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: FlashSlothConfig):
        super().__init__(config)
        self.model = FlashSlothModel(config)
        text_config = config.text_config
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    def get_image_features(self, pixel_values, view_mask=None, **kwargs) -> FlashSlothImageFeatures:
        """See [`FlashSlothModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, view_mask, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        view_mask: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, FlashSlothImageFeatures] | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_query_attentions: bool = False,
        cache: Cache | None = None,
        **kwargs,
    ) -> FlashSlothCausalLMOutputWithPast:
        """
        Args:
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*): token ids to predict, -100 where none is.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0): last positions to compute logits for,
                or their indices; 0 means all.

            The other arguments are those of [`FlashSlothModel.forward`].
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            view_mask=view_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            output_query_attentions=output_query_attentions,
            cache=cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size, **kwargs)
        shared = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return FlashSlothCausalLMOutputWithPast(loss=loss, logits=logits, **shared)

    def generate(self, *args, past_key_values: Cache | None = None, cache: Cache | None = None, **kwargs):
        """`generate` of transformers, with the cache's name since 5.24, `cache`, or before, `past_key_values`."""
        cache = past_key_values if cache is None else cache
        if cache is not None:
            kwargs[CACHE_NAME] = cache
        return super().generate(*args, **kwargs)

    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, is_first_iteration=False, **kwargs):
        cache = kwargs.get(CACHE_NAME)
        # The prefill of an assistant model is not marked as a first iteration; it would lose its images.
        if not is_first_iteration and next_sequence_length != 1 and cache is not None:
            is_first_iteration = cache.get_seq_length() == 0
        if is_first_iteration and cache is not None:
            self._check_images(input_ids, int(cache.get_seq_length()), **kwargs)
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, is_first_iteration=is_first_iteration, **kwargs
        )

    def _check_images(self, input_ids, past_length, view_mask=None, pixel_values=None, mm_encoder_outputs=None, **_):
        """Query tokens behind a kept cache attend to the patches of all images before them, which no cache holds."""
        if past_length == 0 or not _is_query_token(self.config, input_ids[:, past_length:]).any():
            return
        features = (mm_encoder_outputs or {}).get("image")
        view_mask = view_mask if features is None else features.view_mask
        if view_mask is None and pixel_values is not None:
            return  # split evenly over the rows; `forward` compares them
        num_tokens = (input_ids == self.config.image_token_id).sum(dim=-1)
        num_views = torch.zeros_like(num_tokens) if view_mask is None else view_mask.sum(dim=-1)
        num_features = num_views * self.config.num_visual_tokens
        if (num_tokens != num_features).any():
            raise ValueError(
                f"Image features and image tokens do not match: the rows hold {num_tokens.tolist()} image tokens, "
                f"those in the cache included, their images make {num_features.tolist()}. Pass all images of the "
                "conversation again, as pixel_values and view_mask or as mm_encoder_outputs."
            )

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, expand_size=1, inputs_embeds=None):
        # The library's version takes features by image; ours are by row, and expand as every other input does.
        features = mm_encoder_output.get("image")
        if features is None:
            return mm_encoder_output
        expanded = {name: tensor.repeat_interleave(expand_size, dim=0) for name, tensor in features.items()}
        return {**mm_encoder_output, "image": FlashSlothImageFeatures(**expanded)}


def _rows_of_views(view_mask: torch.Tensor, num_views: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    For each row the indices `(B, V)` of its views in the flat batch, and a `view_mask` in which they come first:
    padding by a pipeline may have put them last.
    """
    views_per_row = view_mask.sum(dim=-1, keepdim=True)
    column = torch.arange(view_mask.shape[1], device=view_mask.device)
    first_view = views_per_row.cumsum(dim=0) - views_per_row
    return (first_view + column).clamp(max=num_views - 1), (column < views_per_row).long()


def _by_row(tensor: torch.Tensor, view_index: torch.Tensor) -> torch.Tensor:
    """`(N, ...)` to `(B, V, ...)`. Where no row is padded, the order stays as it is and nothing is copied."""
    if view_index.numel() == tensor.shape[0]:
        return tensor.unflatten(0, view_index.shape)
    return tensor[view_index]


def _is_query_token(config: FlashSlothConfig, input_ids: torch.Tensor) -> torch.Tensor:
    first = config.first_query_token_id
    return (input_ids >= first) & (input_ids < first + config.num_query_tokens)


def _check_values(condition: torch.Tensor, message: Callable[[], str]) -> None:
    """Raises a `ValueError` unless the condition holds. Exported programs go without: ONNX cannot express a check."""
    if not torch.compiler.is_exporting():
        torch_compilable_check(condition, message)


FlashSlothModel.register_for_auto_class("AutoModel")
FlashSlothForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["FlashSlothPreTrainedModel", "FlashSlothModel", "FlashSlothForCausalLM", "FlashSlothImageFeatures"]
