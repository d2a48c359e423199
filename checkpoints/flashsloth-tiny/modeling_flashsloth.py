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
most, P patches per view, T visual tokens per view, R patches per pooled region, C vision width,
D decoder width. With `view_mask`, no shape depends on the values of a tensor, so prefill and decode compile and export
as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from packaging import version
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, torch_compilable_check

from .configuration_flashsloth import FlashSlothConfig
from .embedded_query_flashsloth import EmbeddedQuery, is_query_token, query_context


# transformers 5.24 renamed the key-value cache, as an argument and in outputs. This is its name there.
CACHE_NAME = "cache" if version.parse(transformers.__version__) >= version.parse("5.24.0.dev0") else "past_key_values"


@dataclass
class FlashSlothImageFeatures(ModelOutput):
    """
    The encoded images of a batch, by row. Encode once with `get_image_features`, then pass the result to `forward` or
    `generate` as `mm_encoder_outputs={"image": features}` in every turn. A row's real views come first; padding, which
    is zero, follows them. All fields are `None` for a text-only batch.

    Args:
        last_hidden_state (`torch.Tensor` of shape `(B, V, P, C)`): un-pooled patches, for the query tokens.
        pooler_output (`torch.Tensor` of shape `(B, V, T, D)`): projected visual tokens, for the placeholders.
        view_mask (`torch.LongTensor` of shape `(B, V)`): 1 for each real view of a row.
        pooling_weights (`torch.Tensor` of shape `(B, V, T, R)`): share of each patch in its visual token, `None` with
            `pooling_mode="none"`.
        hidden_states, attentions (`tuple[torch.Tensor]`): of the vision tower, one tensor a layer, of all `N` views;
            with `output_hidden_states=True` and `output_attentions=True`.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    view_mask: torch.Tensor | None = None
    pooling_weights: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


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
            # linear layers of 8 bits (bitsandbytes) take three axes
            scores = self.fc2(self.dropout(F.relu(self.fc1(regions.flatten(1, 2))))).view(regions.shape[:-1])
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

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> FlashSlothImageFeatures:
        """
        Encodes, pools and projects the views of a batch.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_size, image_size)`): the views of all rows, one row
                after the other; `N` may be 0.
            view_mask (`torch.LongTensor` of shape `(B, V)`, *optional*): 1 for each view of a row, 0 for none; its
                sum is `N`. Without it all views belong to one row.
            kwargs: of the vision tower, such as `output_hidden_states`.

        Raises:
            ValueError: If `pixel_values` are no views of the tower's size, or others than `view_mask` counts.
            TypeError: If another argument is given.
        """
        unknown = kwargs.keys() - TransformersKwargs.__annotations__
        if unknown:
            raise TypeError(f"get_image_features() got an unexpected keyword argument {min(unknown)!r}.")
        size = self.config.vision_config.image_size
        if pixel_values.shape[1:] != (self.config.vision_config.num_channels, size, size):
            raise ValueError(
                f"pixel_values is of shape {tuple(pixel_values.shape)}, but the vision tower takes views of {size} x "
                f"{size} pixels, (N, 3, {size}, {size}): make them with the model's own processor."
            )
        num_views = pixel_values.shape[0]
        if view_mask is None:
            view_mask = torch.ones(1, num_views, dtype=torch.long, device=pixel_values.device)
        _check_values(
            (view_mask.sum() == num_views) & (view_mask >= 0).all(),
            lambda: (
                f"view_mask counts {int(view_mask.sum())} views, but pixel_values holds {num_views}. Pass both as "
                "the processor returned them."
            ),
        )
        if num_views == 0:
            return FlashSlothImageFeatures()
        encoded = self.vision_tower(pixel_values.to(self.vision_tower.dtype), return_dict=True, **kwargs)
        patches = encoded.last_hidden_state  # (N, P, C)
        visual_tokens, weights = self.pooling(patches)
        view_index, view_mask = _rows_of_views(view_mask, num_views)
        return FlashSlothImageFeatures(
            last_hidden_state=_by_row(patches, view_index, view_mask),
            pooler_output=_by_row(self.multi_modal_projector(visual_tokens), view_index, view_mask),
            view_mask=view_mask,
            pooling_weights=None if weights is None else _by_row(weights, view_index, view_mask),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def find_views(self, input_ids: torch.Tensor, num_views: int, view_mask: torch.Tensor | None = None):
        """
        The `view_mask` of a batch, of shape `(B, V)`: the given one, or how many views the placeholders of each row
        stand for.

        Raises:
            ValueError: If `view_mask` is of another number of rows, or the placeholders stand for other than
                `num_views` views.
        """
        num_rows = input_ids.shape[0]
        if view_mask is not None:
            if not isinstance(view_mask, torch.Tensor) or view_mask.ndim != 2 or view_mask.is_floating_point():
                raise ValueError("view_mask is no tensor of integers of shape (rows, views): leave it out.")
            if view_mask.shape[0] != num_rows:
                raise ValueError(f"view_mask is of {view_mask.shape[0]} rows, but the prompts are {num_rows}.")
            return view_mask
        if num_rows == 1:
            return input_ids.new_ones(1, num_views)  # those of images in the cache too
        views_per_row = (input_ids == self.config.image_token_id).sum(dim=-1) // self.config.num_visual_tokens
        _check_values(
            views_per_row.sum() == num_views,
            lambda: (
                f"Image features and image tokens do not match: the rows' image tokens are those of "
                f"{views_per_row.tolist()} views, but pixel_values holds {num_views}. Pass view_mask too, as the "
                "processor returns it, if the cache holds images."
            ),
        )
        return (torch.arange(views_per_row.max(), device=input_ids.device) < views_per_row.unsqueeze(-1)).long()

    def find_special_tokens(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """
        Token ids `(B, L)` of the placeholders, padding and ends in embeddings, found by their rows of the embedding
        matrix; -1 for everything else.

        Raises:
            ValueError: If two of these tokens have the same embedding.
        """
        token_ids = [*self.config.placeholder_token_ids, *self.config.eos_token_ids]
        token_ids = torch.tensor(token_ids, device=inputs_embeds.device)
        rows = self.get_input_embeddings()(token_ids)
        is_token = torch.stack([(inputs_embeds == row).all(dim=-1) for row in rows], dim=-1)  # (B, L, tokens)
        _check_values(
            (is_token.sum(dim=-1) <= 1).all(),
            lambda: "Some special tokens have the same embedding: pass input_ids in place of inputs_embeds.",
        )
        return torch.where(is_token.any(dim=-1), token_ids[is_token.long().argmax(dim=-1)], -1)

    def _embed_tokens(self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Embeds text; a query token becomes its learned vector plus the embedding of `query_base_token_id`."""
        config, embed = self.config, self.get_input_embeddings()
        if not config.num_query_tokens:
            return embed(input_ids) if inputs_embeds is None else inputs_embeds
        is_query, base_token_id = is_query_token(config, input_ids), config.query_base_token_id
        if inputs_embeds is None:
            inputs_embeds = embed(
                input_ids if base_token_id is None else input_ids.masked_fill(is_query, base_token_id)
            )
        elif base_token_id is not None:
            base = embed(torch.full_like(input_ids[:1, :1], base_token_id))
            inputs_embeds = torch.where(is_query.unsqueeze(-1), base, inputs_embeds)
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> FlashSlothModelOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`): with every placeholder expanded by the processor.
            pixel_values (`torch.Tensor` of shape `(N, 3, image_size, image_size)`, *optional*): views of all rows.
            view_mask (`torch.LongTensor` of shape `(B, V)`, *optional*): see `get_image_features`. Without it each
                row's placeholders say how many views it has.
            inputs_embeds (`torch.Tensor` of shape `(B, L, D)`, *optional*): `get_input_embeddings()(input_ids)`, with
                other vectors in place of text, or around it. Images and query tokens go where the embeddings of their
                placeholders are.
            mm_encoder_outputs (`dict`, *optional*): `{"image": FlashSlothImageFeatures}` in place of `pixel_values`.
                Holds all views of a row, those already in the cache too.
            output_query_attentions (`bool`, *optional*, defaults to `False`): whether to return `query_attentions`.
            cache (`Cache`, *optional*): keys and values of earlier positions; `past_key_values` is the name that
                transformers used before 5.24.

        Raises:
            ValueError: If not exactly one of `input_ids` and `inputs_embeds` is given, if images come twice, if they
                do not fit the placeholders, or if a query slot was not expanded by the processor.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        cache = past_key_values if cache is None else cache
        input_ids = self.find_special_tokens(inputs_embeds) if input_ids is None else input_ids
        features = self._resolve_features(input_ids, pixel_values, view_mask, mm_encoder_outputs, cache)
        inputs_embeds = self._embed_tokens(input_ids, inputs_embeds)
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
            return_dict=True,
            **kwargs,
        )
        return FlashSlothModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            image_hidden_states=None if features is None else features.pooler_output,
            pooling_weights=None if features is None else features.pooling_weights,
            query_attentions=query_attentions[0].unflatten(-1, patches.shape[1:3]) if query_attentions else None,
        )

    def _resolve_features(self, input_ids, pixel_values, view_mask, mm_encoder_outputs, cache):
        """The batch's image features from either source; `None` for a batch without images."""
        features = (mm_encoder_outputs or {}).get("image")
        if features is not None and pixel_values is not None:
            raise ValueError("Pass pixel_values or mm_encoder_outputs, not both: each holds the same images.")
        # A step of decoding, in which a check would make the device wait for the host.
        is_step = input_ids.shape[1] == 1 and cache is not None
        if not is_step:
            slot_token_id = self.config.query_slot_token_id
            _check_values(
                (input_ids != slot_token_id).all(),
                lambda: (
                    f"The input holds the query slot token {slot_token_id}, which the processor replaces by the query "
                    "tokens: make the inputs with the processor, or with a tokenizer that was saved again."
                ),
            )
        if pixel_values is not None and pixel_values.shape[0] > 0:
            view_mask = self.find_views(input_ids, pixel_values.shape[0], view_mask)
            features = self.get_image_features(pixel_values, view_mask, return_dict=True)
        if features is not None and features.pooler_output is not None:
            if features.last_hidden_state is None or features.view_mask is None:
                raise ValueError(
                    "mm_encoder_outputs lack last_hidden_state or view_mask: pass what get_image_features returned, "
                    "and no prefill_chunk_size (an instruction and its query tokens must come in one piece)."
                )
            if features.view_mask.shape[0] != input_ids.shape[0]:
                raise ValueError(
                    f"The image features are of {features.view_mask.shape[0]} rows, but the prompts are "
                    f"{input_ids.shape[0]}."
                )
            return features
        if not is_step:
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

    def get_image_features(
        self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> FlashSlothImageFeatures:
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
        **kwargs: Unpack[TransformersKwargs],
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
            return_dict=True,
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
        """
        `generate` of transformers, with the cache's name since 5.24, `cache`, or before, `past_key_values`.

        Raises:
            ValueError: If `output_query_attentions` is set: what `generate` returns has no place for them.
        """
        if kwargs.pop("output_query_attentions", False):
            raise ValueError("generate returns no query_attentions: call the model on the prompt to get them.")
        cache = past_key_values if cache is None else cache
        if cache is not None:
            kwargs[CACHE_NAME] = cache
        return super().generate(*args, **kwargs)

    def _prepare_generation_config(self, *args, **kwargs):
        generation_config, model_kwargs = super()._prepare_generation_config(*args, **kwargs)
        # Whoever suppresses tokens of their own still wants no placeholder in an answer.
        if generation_config.suppress_tokens is not None:
            suppressed = {*generation_config.suppress_tokens, *self.config.placeholder_token_ids}
            generation_config.suppress_tokens = sorted(suppressed)
        return generation_config, model_kwargs

    def _maybe_prepare_encoder_kwargs_for_generation(self, inputs_tensor, model_kwargs, *args, **kwargs):
        pixel_values = model_kwargs.get("pixel_values")
        if model_kwargs.get("mm_encoder_outputs") is None:
            model_kwargs.pop("mm_encoder_outputs", None)
        if pixel_values is None or pixel_values.shape[0] == 0:
            model_kwargs.pop("pixel_values", None)
        else:
            # The library hands only the arguments of `get_image_features` on, which does not see the placeholders.
            input_ids = inputs_tensor
            if inputs_tensor.is_floating_point():
                input_ids = self.model.find_special_tokens(inputs_tensor)
            view_mask = self.model.find_views(input_ids, pixel_values.shape[0], model_kwargs.get("view_mask"))
            model_kwargs["view_mask"] = view_mask
        return super()._maybe_prepare_encoder_kwargs_for_generation(inputs_tensor, model_kwargs, *args, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids, next_sequence_length=None, inputs_embeds=None, is_first_iteration=False, **kwargs
    ):
        cache = kwargs.get(CACHE_NAME)
        # The prefill of an assistant model is not marked as a first iteration; it would lose its images.
        if not is_first_iteration and next_sequence_length != 1 and cache is not None:
            is_first_iteration = cache.get_seq_length() == 0
        if is_first_iteration and cache is not None:
            self._check_images(input_ids, int(cache.get_seq_length()), **kwargs)
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def _check_images(self, input_ids, past_length, mm_encoder_outputs=None, **_):
        """Query tokens behind a kept cache attend to the patches of all images before them, which no cache holds."""
        if past_length == 0 or not is_query_token(self.config, input_ids[:, past_length:]).any():
            return
        features = (mm_encoder_outputs or {}).get("image")
        num_tokens = (input_ids == self.config.image_token_id).sum(dim=-1)
        is_text_only = features is None or features.view_mask is None
        num_views = torch.zeros_like(num_tokens) if is_text_only else features.view_mask.sum(dim=-1)
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
        by_row = {name: tensor for name, tensor in features.items() if isinstance(tensor, torch.Tensor)}
        expanded = {name: tensor.repeat_interleave(expand_size, dim=0) for name, tensor in by_row.items()}
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


def _by_row(tensor: torch.Tensor, view_index: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
    """`(N, ...)` to `(B, V, ...)`. Where no row is padded, the order stays as it is and nothing is copied."""
    if view_index.numel() == tensor.shape[0]:
        return tensor.unflatten(0, view_index.shape)
    # Zeros: another row's NaN would be NaN times a weight of zero.
    is_padding = (view_mask == 0).view(*view_mask.shape, *[1] * (tensor.ndim - 1))
    return tensor[view_index].masked_fill(is_padding, 0)


def _check_values(condition: torch.Tensor, message: Callable[[], str]) -> None:
    """Raises a `ValueError` unless the condition holds. Exported programs go without: ONNX cannot express a check."""
    if not torch.compiler.is_exporting():
        torch_compilable_check(condition, message)


FlashSlothModel.register_for_auto_class("AutoModel")
FlashSlothForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["FlashSlothPreTrainedModel", "FlashSlothModel", "FlashSlothForCausalLM", "FlashSlothImageFeatures"]
