# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A FlashSloth in three graphs, cut where images are encoded once and tokens are embedded on their own: vision encoder,
embedding of tokens, and decoder. transformers' exporters (transformers.exporters) cut a model by the names that their
tables know, in which pooling and Embedded Query have no place, so the three are written here.

Shapes: as in `modeling_flashsloth.py`, and S pixels along a side of a view, K patches of all views of a row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.initialization import no_init_weights

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM
from flashsloth.embedded_query_flashsloth import QueryContext, query_context
from flashsloth.folders.exported import DECODER, EMBED_TOKENS, PAST, PRESENT, VISION_ENCODER
from flashsloth.folders.json_files import objects_in
from flashsloth.folders.model_folder import model_on_meta
from flashsloth.modeling_flashsloth import CACHE_NAME, FlashSlothImageFeatures


# Of the example inputs, with which the graphs are traced: all dynamic axes differ, and none is 0 or 1.
ROWS, LENGTH, PAST_LENGTH, VIEWS = 2, 7, 5, 3
# Rotary embeddings whose frequencies follow the length of the sequence: no graph computes them anew.
DYNAMIC_ROTARY = ("dynamic",)


@dataclass(frozen=True)
class Graph:
    """
    A part of the model that is exported on its own.

    Args:
        name (`str`): Of its file.
        module (`nn.Module`): Computes it.
        inputs (`dict`): Example inputs by name, in their order.
        input_axes (`dict`), output_axes (`dict`): Names of the axes of inputs and outputs that are dynamic, by their
            numbers.
    """

    name: str
    module: nn.Module
    inputs: dict[str, torch.Tensor] = field(repr=False)
    input_axes: dict[str, dict[int, str]] = field(repr=False)
    output_axes: dict[str, dict[int, str]] = field(repr=False)


class VisionEncoder(nn.Module):
    """`pixel_values` `(N, 3, S, S)` to `image_features` `(N, T, D)`, `patches` `(N, P, C)`, `pooling_weights`."""

    def __init__(self, model: FlashSlothForCausalLM):
        super().__init__()
        self.model = model.model

    def forward(self, pixel_values: torch.Tensor):
        patches = self.model.vision_tower(pixel_values.to(self.model.dtype)).last_hidden_state
        visual_tokens, weights = self.model.pooling(patches)
        if weights is None:  # each patch is a region of its own
            weights = torch.ones_like(patches[..., :1])
        return self.model.multi_modal_projector(visual_tokens).float(), patches.float(), weights.float()


class EmbedTokens(nn.Module):
    """Token ids and the visual tokens of all views of each row to embeddings, and to the masks of Embedded Query."""

    def __init__(self, model: FlashSlothForCausalLM):
        super().__init__()
        self.model = model.model

    def forward(
        self,
        input_ids: torch.Tensor,
        image_features: torch.Tensor,
        view_mask: torch.Tensor,
        past_length: torch.Tensor,
    ):
        config = self.model.config
        embeds = self.model._embed_tokens(input_ids, None)
        features = FlashSlothImageFeatures(pooler_output=image_features, view_mask=view_mask)
        embeds, num_views = self.model._insert_visual_tokens(input_ids, embeds, features, past_length)
        no_patches = image_features.new_zeros(*image_features.shape[:2], config.num_patches, 1)
        context = query_context(config, input_ids, no_patches, num_views, past_length)
        return embeds.float(), context.query_mask, context.instruction_mask, context.patch_mask


class Decoder(nn.Module):
    """One step of decoding, or a prefill: a prefill is a step with an empty past."""

    def __init__(self, model: FlashSlothForCausalLM):
        super().__init__()
        self.model, self.lm_head = model.model, model.lm_head

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        patches: torch.Tensor,
        query_mask: torch.Tensor,
        instruction_mask: torch.Tensor,
        patch_mask: torch.Tensor,
        *past: torch.Tensor,
    ):
        dtype = self.model.dtype
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        weights = []
        context = {}
        if self.model.config.num_query_tokens:
            context = {
                "query_context": QueryContext(patches.to(dtype), query_mask, instruction_mask, patch_mask),
                "keep_query_attentions": weights.append,
            }
        outputs = self.model.language_model(
            inputs_embeds=inputs_embeds.to(dtype),
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE_NAME: cache},
            use_cache=True,
            return_dict=True,
            **context,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -1:])
        attentions = weights[0].mean(dim=1).float() if weights else torch.zeros_like(patch_mask, dtype=torch.float32)
        present = [states for layer in cache.layers for states in (layer.keys, layer.values)]
        return logits.float(), attentions, *present


def empty_model(config: FlashSlothConfig, dtype: torch.dtype) -> FlashSlothForCausalLM:
    """
    The model with its buffers, but without memory for its weights: every parameter is one number, seen as a tensor of
    the right shape, so that a graph can be traced that has the names of the parameters and none of their bytes.
    """
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = FlashSlothForCausalLM(config)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            stand_in = torch.zeros((), dtype=dtype).expand(parameter.shape)
            setattr(module, name, nn.Parameter(stand_in, requires_grad=False))
    return model.eval()


def graphs(config: FlashSlothConfig, dtype: torch.dtype) -> Iterable[Callable[[], Graph]]:
    """
    What makes each graph, one after the other, so that none has to be kept.

    Raises:
        ValueError: If the decoder keeps other states than keys and values, or its rotary embedding changes with the
            length.
    """
    past_shapes = cache_shapes(config)

    def vision_encoder() -> Graph:
        return _vision_encoder(empty_model(config, dtype))

    def embed_tokens() -> Graph:
        return _embed_tokens(empty_model(config, dtype))

    def decoder() -> Graph:
        return _decoder(empty_model(config, dtype), past_shapes)

    return vision_encoder, embed_tokens, decoder


def cache_shapes(config: FlashSlothConfig) -> list[tuple[int, int]]:
    """
    Heads and width of a head of keys and values, of each layer of the decoder.

    Raises:
        ValueError: If a layer keeps other states, or the rotary embedding changes with the length.
    """
    check_rotary(config)
    model = model_on_meta(config)
    cache = DynamicCache(config=config.text_config)
    embeds = torch.empty(1, 1, config.text_config.hidden_size, device="meta", dtype=model.dtype)
    model.model.language_model(inputs_embeds=embeds, **{CACHE_NAME: cache}, use_cache=True)
    for layer in cache.layers:
        if type(layer) is not DynamicLayer:
            raise ValueError(
                f"The decoder, a {config.text_config.model_type}, keeps states of the kind {type(layer).__name__}; "
                "only those whose layers all keep all keys and values can be exported."
            )
    return [(states.shape[1], states.shape[3]) for layer in cache.layers for states in (layer.keys, layer.values)]


def check_rotary(config: FlashSlothConfig) -> None:
    """
    Raises:
        ValueError: If the decoder's rotary embedding, or that of some of its layers, has frequencies that change with
            the length of a sequence.
    """
    parameters = getattr(config.text_config, "rope_parameters", None) or {}
    for part in objects_in(parameters):
        if part.get("rope_type") in DYNAMIC_ROTARY:
            raise ValueError(
                f"The decoder, a {config.text_config.model_type}, has rope_type {part['rope_type']!r}, whose "
                "frequencies change with the length of a sequence, so that no graph can hold them. Run the model with "
                "torch, or export one with a fixed rope_type, such as 'default', 'linear' or 'yarn'."
            )


def _vision_encoder(model: FlashSlothForCausalLM) -> Graph:
    size = model.config.vision_config.image_size
    return Graph(
        VISION_ENCODER,
        VisionEncoder(model),
        {"pixel_values": torch.zeros(VIEWS, model.config.vision_config.num_channels, size, size)},
        {"pixel_values": {0: "views"}},
        {name: {0: "views"} for name in ("image_features", "patches", "pooling_weights")},
    )


def _embed_tokens(model: FlashSlothForCausalLM) -> Graph:
    config = model.config
    input_ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    by_view = {0: "batch", 1: "views"}
    return Graph(
        EMBED_TOKENS,
        EmbedTokens(model),
        {
            "input_ids": input_ids,
            "image_features": torch.zeros(ROWS, VIEWS, config.num_visual_tokens, config.text_config.hidden_size),
            "view_mask": torch.ones(ROWS, VIEWS, dtype=torch.long),
            "past_length": torch.tensor(0),
        },
        {
            "input_ids": {0: "batch", 1: "length"},
            "image_features": by_view,
            "view_mask": by_view,
            "past_length": {},
        },
        {
            "inputs_embeds": {0: "batch", 1: "length"},
            "query_mask": {0: "batch", 1: "length"},
            "instruction_mask": {0: "batch", 1: "length", 2: "length"},
            "patch_mask": {0: "batch", 1: "length", 2: "patches"},
        },
    )


def _decoder(model: FlashSlothForCausalLM, past_shapes: list[tuple[int, int]]) -> Graph:
    config = model.config
    num_patches = VIEWS * config.num_patches
    inputs = {
        "inputs_embeds": torch.zeros(ROWS, LENGTH, config.text_config.hidden_size),
        "attention_mask": torch.ones(ROWS, PAST_LENGTH + LENGTH, dtype=torch.long),
        "position_ids": torch.arange(PAST_LENGTH, PAST_LENGTH + LENGTH).repeat(ROWS, 1),
        "patches": torch.zeros(ROWS, num_patches, config.vision_config.hidden_size),
        "query_mask": torch.zeros(ROWS, LENGTH, dtype=torch.bool),
        "instruction_mask": torch.zeros(ROWS, LENGTH, LENGTH, dtype=torch.bool),
        "patch_mask": torch.zeros(ROWS, LENGTH, num_patches, dtype=torch.bool),
    }
    axes = {
        "inputs_embeds": {0: "batch", 1: "length"},
        "attention_mask": {0: "batch", 1: "total_length"},
        "position_ids": {0: "batch", 1: "length"},
        "patches": {0: "batch", 1: "patches"},
        "query_mask": {0: "batch", 1: "length"},
        "instruction_mask": {0: "batch", 1: "length", 2: "length"},
        "patch_mask": {0: "batch", 1: "length", 2: "patches"},
    }
    output_axes = {"logits": {0: "batch"}, "query_attentions": {0: "batch", 1: "length", 2: "patches"}}
    for index, (heads, width) in enumerate(past_shapes):
        name = f"{index // 2}.{('key', 'value')[index % 2]}"
        inputs[f"{PAST}{name}"] = torch.zeros(ROWS, heads, PAST_LENGTH, width, dtype=model.dtype)
        axes[f"{PAST}{name}"] = {0: "batch", 2: "past_length"}
        output_axes[f"{PRESENT}{name}"] = {0: "batch", 2: "total_length"}
    return Graph(DECODER, Decoder(model), inputs, axes, output_axes)
