# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Asks an exported model by onnxruntime, with numpy alone: no torch is imported."""

from dataclasses import dataclass, fields

import numpy as np

from flashsloth.assistant.onnx_model import Features, OnnxModel
from flashsloth.assistant.options import answer_lengths
from flashsloth.assistant.sampling import Decoding, decoding, read_generation_config
from flashsloth.assistant.stream import Watch
from flashsloth.attention_maps import over_image, pooled_patches
from flashsloth.processing_flashsloth import END_TOKEN


@dataclass
class Memory:
    """
    What a chat keeps of its turns, so that each is computed once.

    Args:
        input_ids (`np.ndarray` of shape `(1, L)`, *optional*): The whole sequence, answers included.
        features ([`Features`], *optional*): Of all images in it.
        past (`list`, *optional*): Keys and values of its first positions.
        past_length (`int`, *optional*, defaults to 0): Their number.
    """

    input_ids: np.ndarray | None = None
    features: Features | None = None
    past: list | None = None
    past_length: int = 0

    def with_sound_cache(self) -> "Memory":
        """This memory after a turn that failed: its arrays are never written to."""
        return self


class OnnxBackend:
    """
    An exported FlashSloth.

    Args:
        model ([`OnnxModel`]): Its graphs.
        processor ([`FlashSlothProcessor`]): Its processor.

    Attributes:
        settings (`dict`): Of its generation config, by [`~flashsloth.assistant.sampling.read_generation_config`].
    """

    tensor_type = "np"

    def __init__(self, model: OnnxModel, processor):
        self.model, self.processor = model, processor
        self.eos_token_ids = model.config.eos_token_ids
        self.settings = read_generation_config(model.folder, model.config)

    @property
    def folder(self) -> str:
        """Where the model was loaded from."""
        return str(self.model.folder)

    def describe(self) -> str:
        """Where the model computes, and with what weights."""
        return f"{self.model.device} in {self.model.dtype}, by onnxruntime"

    def new_memory(self) -> Memory:
        """The memory of a chat that has not begun."""
        return Memory()

    def generate(
        self, inputs, options: dict, watch: Watch, memory: Memory | None = None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """
        Answers a batch of prompts, or the next turn of a chat; see
        [`~flashsloth.assistant.torch_backend.TorchBackend.generate`].

        Raises:
            ValueError: If an option is wrong, or needs torch.
        """
        how = decoding(options, self.settings)
        input_ids, mask, features = self._whole(inputs, memory or Memory())
        lengths = answer_lengths(mask.sum(axis=1).tolist(), how.max_new_tokens, self.model.config)
        past, past_length = self.model.empty_past(len(input_ids)), 0
        if memory is not None and memory.past is not None:
            past, past_length = memory.past, memory.past_length
            memory.past = None  # half a turn in it is of no use
        answers, past, past_length = self._decode(input_ids, mask, features, past, past_length, how, lengths, watch)
        if memory is not None:
            ends = [] if answers[0][-1] in self.eos_token_ids else [self._end_token_id()]
            memory.input_ids = np.concatenate([input_ids, [[*answers[0], *ends]]], axis=1)
            memory.features, memory.past, memory.past_length = features, past, past_length
        prompts = [row[kept].tolist() for row, kept in zip(input_ids, mask.astype(bool), strict=True)]
        return prompts, answers

    def _whole(self, inputs, memory: Memory) -> tuple[np.ndarray, np.ndarray, Features | None]:
        """Token ids, mask and features of the whole sequences, whose images are encoded once."""
        input_ids, features = np.asarray(inputs["input_ids"], np.int64), memory.features
        mask = np.asarray(inputs["attention_mask"], np.int64)
        if "pixel_values" in inputs:
            features = _joined(features, self.model.encode(inputs["pixel_values"], inputs["view_mask"]))
        if memory.input_ids is not None:
            input_ids = np.concatenate([memory.input_ids, input_ids], axis=1)
            mask = np.ones_like(input_ids)
        return input_ids, mask, features

    def _end_token_id(self) -> int:
        return self.processor.tokenizer.convert_tokens_to_ids(END_TOKEN)

    def _decode(
        self,
        input_ids: np.ndarray,
        mask: np.ndarray,
        features: Features | None,
        past: list,
        past_length: int,
        how: Decoding,
        lengths: list[int],
        watch: Watch,
    ) -> tuple[list[list[int]], list, int]:
        """The answers, with their ends; then keys and values, and of how many positions."""
        rows = zip(input_ids, lengths, strict=True)
        answers = [_Row(ids, self.processor.tokenizer, how, longest) for ids, longest in rows]
        new_ids = input_ids[:, past_length:]
        for length in range(max(lengths)):
            logits, past = self.model.decode(self.model.decoder_inputs(new_ids, mask, features, past_length), past)
            past_length += new_ids.shape[1]
            features = None  # later positions hold no images and no query tokens
            chosen = how.choose(logits[:, -1], [row.sequence for row in answers], length)
            for row, token in zip(answers, chosen, strict=True):
                row.add(token)
            is_stopped = watch.step(answers[0].tokens[-1] if len(answers) == 1 else None)
            if is_stopped or all(row.has_ended for row in answers):
                break
            new_ids = np.array([[row.sequence[-1]] for row in answers])
            mask = np.concatenate([mask, np.ones_like(new_ids)], axis=1)
        return [row.tokens for row in answers], past, past_length

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
        What the query tokens of the last question attend to, and what pooling keeps, over the pixels of each image;
        see [`~flashsloth.assistant.torch_backend.TorchBackend.attention`].
        """
        config = self.model.config
        if memory is None:
            input_ids, mask, features = self._whole(inputs, Memory())
        else:
            input_ids, features = memory.input_ids[:, :length], memory.features
            mask = np.ones_like(input_ids)
        num_views = features.view_mask.shape[1]
        queries = pooling = np.zeros((num_views, config.num_patches), np.float32)
        if config.num_query_tokens:
            decoder_inputs = self.model.decoder_inputs(input_ids, mask, features, 0)
            attentions, _ = self.model.decode(decoder_inputs, self.model.empty_past(1), "query_attentions")
            last_slot = np.isin(input_ids[0], config.query_token_ids).nonzero()[0][-config.num_query_tokens :]
            queries = attentions[0, last_slot].mean(axis=0).reshape(num_views, -1)
        if config.pooling_mode != "none":
            pooling = pooled_patches(features.pooling_weights[0])
        ends = np.cumsum(views)[:-1]
        return [
            tuple(over_image(one, size, config, tile_grid) for one in pair)
            for size, *pair in zip(sizes, np.split(queries, ends), np.split(pooling, ends), strict=True)
        ]


class _Row:
    """One answer while it grows: its tokens, and the whole sequence, which goes on with padding behind its end."""

    def __init__(self, prompt: np.ndarray, tokenizer, how: Decoding, longest: int):
        self.sequence, self.tokens, self.has_ended = prompt, [], False
        self._tokenizer, self._how, self._longest = tokenizer, how, longest
        before = max(map(len, how.stop_strings), default=0)
        self._text = tokenizer.decode(prompt[-before:]) if before else ""
        self._begin = max(0, len(prompt) - before)

    def add(self, token: int) -> None:
        if self.has_ended:
            token = self._how.pad_token_id
        else:
            self.tokens.append(token)
        self.sequence = np.append(self.sequence, token)
        is_last = token in self._how.eos_token_id or len(self.tokens) == self._longest
        self.has_ended = self.has_ended or is_last or self._has_stop_string()

    def _has_stop_string(self) -> bool:
        """Whether the last token ends a stop string; it may begin in the prompt."""
        if not self._how.stop_strings:
            return False
        before, self._text = self._text, self._tokenizer.decode(self.sequence[self._begin :])
        return any(stop in self._text[max(0, len(before) - len(stop) + 1) :] for stop in self._how.stop_strings)


def _joined(earlier: Features | None, later: Features) -> Features:
    """The features of one row's images, earlier ones first."""
    if earlier is None:
        return later
    names = [field.name for field in fields(Features)]
    return Features(**{n: np.concatenate([vars(earlier)[n], vars(later)[n]], axis=1) for n in names})
