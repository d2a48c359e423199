# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Asks a model by torch: transformers' own `generate`, on images that are encoded once."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from flashsloth.assistant.options import answer_lengths, end_token_ids
from flashsloth.assistant.stream import Watch
from flashsloth.attention_maps import over_image, pooled_patches
from flashsloth.modeling_flashsloth import FlashSlothImageFeatures
from flashsloth.processing_flashsloth import END_TOKEN


@dataclass
class Memory:
    """
    What a chat keeps of its turns, so that each is computed once.

    Args:
        input_ids (`torch.LongTensor` of shape `(1, L)`, *optional*): The whole sequence, answers included.
        features ([`FlashSlothImageFeatures`], *optional*): Of all images in it.
        cache (`Cache`, *optional*): Keys and values of its first positions.
    """

    input_ids: torch.Tensor | None = None
    features: FlashSlothImageFeatures | None = None
    cache: DynamicCache | None = None

    def with_sound_cache(self) -> "Memory":
        """This memory after a turn that failed: half of it is in the cache, which is computed again."""
        return replace(self, cache=None)


class TorchBackend:
    """
    A FlashSloth model of transformers.

    Args:
        model: A FlashSloth model that generates.
        processor: Its processor.
    """

    tensor_type = "pt"

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self.eos_token_ids = model.config.eos_token_ids

    @property
    def folder(self) -> str:
        """Where the model was loaded from."""
        return self.model.name_or_path

    def describe(self) -> str:
        """Where the model computes, and in what dtype."""
        return f"{self.model.device} in {str(self.model.dtype).removeprefix('torch.')}"

    def new_memory(self) -> Memory:
        """The memory of a chat that has not begun."""
        return Memory()

    @torch.inference_mode()
    def generate(
        self, inputs, options: dict, watch: Watch, memory: Memory | None = None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """
        Answers a batch of prompts, or the next turn of a chat.

        Args:
            inputs ([`FlashSlothInputs`]): Of the processor: whole prompts, or the new turn alone if there is a
                memory.
            options (`dict`): Of transformers' `generate`.
            watch ([`Watch`]): Is told of each step.
            memory ([`Memory`], *optional*): Is brought up to date once the answer is there. If the turn fails, its
                cache is no longer sound.

        Returns:
            `tuple[list[list[int]], list[list[int]]]`: The tokens of each row's sequence before its answer, without
            padding, and those of the answer, up to its end.

        Raises:
            ValueError: If an option is wrong.
        """
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        if memory is not None:
            inputs = self._continued(inputs, memory)
        if options.get("stop_strings"):
            options = {**options, "tokenizer": self.processor.tokenizer}
        ends = end_token_ids(options, self.model.config)
        prompt_lengths = inputs["attention_mask"].sum(dim=1).tolist()
        lengths = answer_lengths(prompt_lengths, options["max_new_tokens"], self.model.config)
        options = {**options, "max_new_tokens": max(lengths)}
        criteria = StoppingCriteriaList(
            [*(options.pop("stopping_criteria", None) or []), _Step(watch, inputs["input_ids"].shape[1], lengths)]
        )
        cache = None if memory is None else memory.cache or DynamicCache(config=self.model.config.text_config)
        if memory is not None:
            options = {**options, "cache": cache}
        output = self.model.generate(**inputs, **options, stopping_criteria=criteria)
        length = inputs["input_ids"].shape[1]
        prompts = [
            row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        if memory is not None:
            memory.input_ids = self._with_end(output)
            memory.features = (inputs.get("mm_encoder_outputs") or {}).get("image")
            memory.cache = cache
        answers = zip(output[:, length:].tolist(), lengths, strict=True)
        padding = options.get("pad_token_id")
        padding = self.model.generation_config.pad_token_id if padding is None else padding
        return prompts, [_to_end(row[:longest], ends, padding) for row, longest in answers]

    def _continued(self, inputs, memory: Memory) -> dict:
        """The inputs of the whole chat, with images that are encoded once."""
        features = memory.features
        pixel_values = inputs.get("pixel_values")
        if pixel_values is not None:
            features = _joined(features, self.model.get_image_features(pixel_values))
        input_ids = inputs["input_ids"]
        if memory.input_ids is not None:
            input_ids = torch.cat([memory.input_ids, input_ids], dim=1)
        images = {} if features is None else {"mm_encoder_outputs": {"image": features}}
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **images}

    def _with_end(self, output: torch.Tensor) -> torch.Tensor:
        """The sequence of a chat with the end of its last answer, which one that was cut off lacks."""
        if int(output[0, -1]) in self.eos_token_ids:
            return output
        end = self.processor.tokenizer.convert_tokens_to_ids(END_TOKEN)
        return torch.cat([output, output.new_tensor([[end]])], dim=1)

    @torch.inference_mode()
    def attention(
        self,
        inputs,
        memory: Memory | None,
        length: int,
        sizes: list[tuple[int, int]],
        views: list[int],
        tile_grid: int,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """
        What the query tokens of the last question attend to, and what pooling keeps, over the pixels of each image.

        Args:
            inputs ([`FlashSlothInputs`]), memory ([`Memory`], *optional*): As in `generate`, which has run.
            length (`int`): Positions before the answer.
            sizes (`list[tuple[int, int]]`), views (`list[int]`): Width and height, and number of views, of each image.
            tile_grid (`int`): Tiles along each side of an image.

        Returns:
            A pair of arrays `(height, width)` for each image: the query tokens' weights, and pooling's.
        """
        if memory is None:
            prompt = dict(inputs.to(self.model.device, dtype=self.model.dtype))
        else:
            input_ids = memory.input_ids[:, :length]
            prompt = {"input_ids": input_ids, "mm_encoder_outputs": {"image": memory.features}}
        outputs = self.model(**prompt, output_query_attentions=True, logits_to_keep=1)
        shape = outputs.image_hidden_states.shape[1], self.model.config.num_patches
        queries = pooling = np.zeros(shape, np.float32)
        if outputs.query_attentions is not None:
            last_slot = torch.isin(
                prompt["input_ids"][0], torch.tensor(self.model.config.query_token_ids, device=self.model.device)
            ).nonzero()[-self.model.config.num_query_tokens :, 0]
            queries = outputs.query_attentions[0][:, last_slot].float().mean(dim=(0, 1)).cpu().numpy()
        if outputs.pooling_weights is not None:
            pooling = pooled_patches(outputs.pooling_weights[0].float().cpu().numpy())
        ends = np.cumsum(views)[:-1]
        return [
            tuple(over_image(one, size, self.model.config, tile_grid) for one in pair)
            for size, *pair in zip(sizes, np.split(queries, ends), np.split(pooling, ends), strict=True)
        ]


class _Step(StoppingCriteria):
    """Tells a [`Watch`] of each step, and ends rows that have reached their longest length."""

    def __init__(self, watch: Watch, length: int, lengths: list[int]):
        self.watch, self.length = watch, length
        self.ends = torch.tensor([length + longest for longest in lengths])

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        new = input_ids[0, self.length :].tolist() if len(input_ids) == 1 else [None]
        self.length = input_ids.shape[1]
        is_stopped = any([self.watch.step(token) for token in new])  # some ways of decoding give several at once
        ends = self.ends.repeat_interleave(len(input_ids) // len(self.ends))  # several sequences of a row are beams
        return ((self.length >= ends) | is_stopped).to(input_ids.device)


def _to_end(tokens: list[int], end_token_ids: list[int], padding: int | None) -> list[int]:
    """Tokens up to the first end, or without the padding behind a row that a stop string ended before the others."""
    for index, token in enumerate(tokens):
        if token in end_token_ids:
            return tokens[: index + 1]
    while tokens[-1] == padding and len(tokens) > 1:
        tokens = tokens[:-1]
    return tokens


def _joined(earlier: FlashSlothImageFeatures | None, later: FlashSlothImageFeatures) -> FlashSlothImageFeatures:
    """The features of one row's images, earlier ones first."""
    if earlier is None:
        return later
    names = [field.name for field in fields(later) if isinstance(later.get(field.name), torch.Tensor)]
    return FlashSlothImageFeatures(**{name: torch.cat([earlier[name], later[name]], dim=1) for name in names})
