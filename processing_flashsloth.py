# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Turns pictures and prompts, or whole conversations, into what the model takes."""

import re

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin


IMAGE_TOKEN = "<image>"
QUERY_SLOT_TOKEN = "<learnable>"
QUERY_TOKEN = "<query_{}>"
END_TOKEN = "</s>"
PAD_TOKEN = "<pad>"

# Put into the middle of text that only looks like a special token. The tokenizer finds special tokens before it
# normalizes, and its normalizer takes this character out again: the text stays what it was, and stays text.
ESCAPE = "\U000f0000"

# The published evaluation prompt: system prompt, roles, and no space before the query slot.
CHAT_TEMPLATE = r"""
{%- macro render(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {{- '<image>\n' if part['type'] == 'image' else part['text'] -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if messages[0]['role'] == 'system' -%}
    {{- render(messages[0]['content']) + ' ' -}}
{%- else -%}
    {{- "A chat between a curious user and an artificial intelligence assistant. " -}}
    {{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{- 'USER: ' + render(message['content']) + '<learnable>' -}}
        {%- if not loop.last or add_generation_prompt -%}
            {{- ' ASSISTANT:' -}}
        {%- endif -%}
    {%- elif message['role'] == 'assistant' -%}
        {%- generation -%}
            {{- ' ' + render(message['content']) + '</s>' -}}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
"""


class FlashSlothImagesKwargs(ImagesKwargs, total=False):
    """
    Args:
        hd (`bool`, *optional*): whether to add the high-resolution tiles, instead of the checkpoint's default.
    """

    hd: bool


class FlashSlothProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: FlashSlothImagesKwargs


class FlashSlothProcessor(ProcessorMixin):
    r"""
    Prepares the model's inputs. Placeholders are expanded here, so that `input_ids` are as long as the sequence that
    the decoder sees: `<image>` to the visual tokens of all its views, `<learnable>` to the query tokens of one slot.

    Args:
        image_processor ([`FlashSlothImageProcessor`])
        tokenizer (`PreTrainedTokenizerFast`): with FlashSloth's special tokens, as `flashsloth.convert` adds them.
        num_visual_tokens (`int`, *optional*, defaults to 81): tokens per view, `FlashSlothConfig.num_visual_tokens`.
        num_query_tokens (`int`, *optional*, defaults to 9): tokens per slot, `FlashSlothConfig.num_query_tokens`.
        chat_template (`str`, *optional*): a Jinja template in place of the published prompt.

    Raises:
        ValueError: If the tokenizer lacks a special token, or cannot keep special tokens out of a user's text.
    """

    valid_processor_kwargs = FlashSlothProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        num_visual_tokens: int = 81,
        num_query_tokens: int = 9,
        chat_template: str | None = None,
        **kwargs,
    ):
        self.num_visual_tokens = num_visual_tokens
        self.num_query_tokens = num_query_tokens
        self.image_token = IMAGE_TOKEN
        query_tokens = [QUERY_TOKEN.format(index) for index in range(num_query_tokens)]
        self.query_slot = "".join(query_tokens)
        self._check_tokenizer(tokenizer, [IMAGE_TOKEN, QUERY_SLOT_TOKEN, END_TOKEN, PAD_TOKEN, *query_tokens])
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.query_token_ids = tokenizer.convert_tokens_to_ids(query_tokens)
        self._special_token = re.compile("|".join(re.escape(token) for token in _special_tokens(tokenizer)))
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @staticmethod
    def _check_tokenizer(tokenizer, special_tokens: list[str]):
        remedy = "Prepare the tokenizer with flashsloth.convert.add_special_tokens."
        missing = [token for token in special_tokens if token not in _special_tokens(tokenizer)]
        if missing:
            raise ValueError(f"The tokenizer has no special token {missing[0]!r}. {remedy}")
        if tokenizer.tokenize("a" + ESCAPE + "b") != tokenizer.tokenize("ab"):
            raise ValueError(f"The tokenizer's normalizer does not take out the escape character U+F0000. {remedy}")

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "view_mask"]

    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs) -> BatchFeature:
        """
        Args:
            images: one picture, a list of them (taken by the prompts in turn), or a list of lists (one per prompt);
                see [`FlashSlothImageProcessor`] for what a picture may be.
            text (`str` or `list[str]`): prompts with an `<image>` for each picture, and a `<learnable>` where the
                query tokens go, which is right behind the question.
            hd (`bool`, *optional*): whether to add the high-resolution tiles.
            return_tensors (`str`, *optional*): `"pt"` for tensors.

        Returns:
            [`BatchFeature`] with `input_ids` and `attention_mask` of shape `(B, L)`, `pixel_values` of shape
            `(N, 3, height, width)` (`N` is 0 without images) and `view_mask` of shape `(B, V)`. Without text only
            `pixel_values`.

        Raises:
            ValueError: If a prompt's placeholders do not fit its pictures, or a prompt is longer than the decoder.
        """
        if videos is not None or audio is not None:
            raise ValueError("FlashSloth takes pictures and text: videos and audio are not supported.")
        if images is None and text is None:
            raise ValueError("Pass images, text or both.")
        merged = self._merge_kwargs(FlashSlothProcessorKwargs, self.tokenizer.init_kwargs, **kwargs)
        images_kwargs, text_kwargs = merged["images_kwargs"], merged["text_kwargs"]
        return_tensors = text_kwargs.pop("return_tensors", None)
        images_kwargs["return_tensors"] = None
        if text is None:
            return BatchFeature(dict(self.image_processor(images, **images_kwargs)), tensor_type=return_tensors)

        text = [text] if isinstance(text, str) else list(text)
        images = [] if images is None else self.image_processor.fetch_images(images)
        images_per_text = self._check_images(images, text)
        pixel_values = self.image_processor(images, **images_kwargs)["pixel_values"]
        views_per_image = self.image_processor.num_views(images_kwargs.get("hd"))

        return_offsets = text_kwargs.pop("return_text_replacement_offsets", merged["return_text_replacement_offsets"])
        return_mm_token_type_ids = text_kwargs.pop("return_mm_token_type_ids", merged["return_mm_token_type_ids"])
        visual_tokens = IMAGE_TOKEN * (self.num_visual_tokens * views_per_image)
        expanded, offsets = zip(*(self._expand(prompt, visual_tokens) for prompt in text), strict=True)
        data = dict(self.tokenizer(list(expanded), **text_kwargs))
        self._check_lengths(data["input_ids"], expanded)
        if return_offsets:
            data["text_replacement_offsets"] = list(offsets)
        if return_mm_token_type_ids:
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        view_mask = np.arange(max(1, *images_per_text) * views_per_image if any(images_per_text) else 1)
        data["view_mask"] = (view_mask < np.array(images_per_text)[:, None] * views_per_image).astype(np.int64)
        data["pixel_values"] = pixel_values
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["text_replacement_offsets"])

    def apply_chat_template(self, conversation, chat_template=None, hd: bool | None = None, **kwargs):
        """
        [`ProcessorMixin.apply_chat_template`], for a conversation (or a list of them) of `system`, `user` and
        `assistant` messages. Text that looks like a special token stays text. `hd` overrides the checkpoint's default.

        Raises:
            ValueError: If a conversation is empty, its roles do not alternate, or a message has no content or content
                of an unknown kind.
        """
        kwargs.pop("sanitize_control_tokens", None)  # is always done here, and with exact assistant masks
        if hd is not None:
            kwargs["processor_kwargs"] = {**(kwargs.get("processor_kwargs") or {}), "hd": hd}
        if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "messages"):
            raise ValueError(f"A conversation is a list of messages, got {type(conversation).__name__}.")
        is_batched = bool(conversation) and not isinstance(conversation[0], dict)
        conversations = [getattr(chat, "messages", chat) for chat in conversation] if is_batched else [conversation]
        conversations = [
            self._prepare_conversation(messages, f"Conversation {index}" if is_batched else "The conversation")
            for index, messages in enumerate(conversations)
        ]
        return super().apply_chat_template(
            conversations if is_batched else conversations[0], chat_template=chat_template, **kwargs
        )

    def _adjust_assistant_masks_indices(self, processed_dict, generation_indices):
        # It reads all offsets once for every answer: from tensors that took ten times as long as all the rest.
        processed_dict["offset_mapping"] = np.asarray(processed_dict["offset_mapping"]).tolist()
        return super()._adjust_assistant_masks_indices(processed_dict, generation_indices)

    def _prepare_conversation(self, messages: list[dict], name: str) -> list[dict]:
        """Checks the messages and returns a copy in which special tokens in their text are escaped."""
        if not isinstance(messages, (list, tuple)):
            raise ValueError(f"{name} is {messages!r}: a conversation is a list of messages.")
        if not messages:
            raise ValueError(f"{name} is empty: it needs at least one user message.")
        for message in messages:
            if not isinstance(message, dict):
                raise ValueError(f"{name} holds {message!r}: a message is a dict with a role and a content.")
        turns = messages[1:] if messages[0].get("role") == "system" else messages
        for index, message in enumerate(turns):
            expected = ("user", "assistant")[index % 2]
            if message.get("role") != expected:
                raise ValueError(
                    f"{name} has the role {message.get('role')!r} where {expected!r} is due (message {index} after "
                    "the system prompt): user and assistant take turns, the user first."
                )
        if not turns:
            raise ValueError(f"{name} holds a system prompt only: it needs at least one user message.")
        return [
            {**message, "content": self._prepare_content(message.get("content"), f"{name}, message {index}")}
            for index, message in enumerate(messages)
        ]

    def _prepare_content(self, content, name: str):
        if isinstance(content, str):
            return self._escape(content)
        if not content:
            raise ValueError(f"{name} has no content: pass text or a list of parts.")
        parts = []
        for part in content:
            if not isinstance(part, dict):
                raise ValueError(
                    f"{name} has the part {part!r}: a part is a dict, as {{'type': 'text', 'text': ...}}."
                )
            kind = part.get("type")
            if kind == "text" and isinstance(part.get("text"), str):
                if parts and parts[-1]["type"] == "text":
                    # Escaped as one, since the template joins them: a special token may be split over both.
                    part = {**part, "text": parts.pop()["text"] + part["text"]}
                parts.append({**part, "text": self._escape(part["text"])})
            elif kind in ("image", "image_url"):
                parts.append(part)
            else:
                raise ValueError(
                    f"{name} has a part of type {kind!r}: pass {{'type': 'text', 'text': ...}} or "
                    "{'type': 'image', 'image' or 'path' or 'url' or 'base64': ...}."
                )
        return parts

    def _escape(self, text: str) -> str:
        text = text.replace(ESCAPE, "")
        return self._special_token.sub(lambda match: match.group()[0] + ESCAPE + match.group()[1:], text)

    def _check_images(self, images, text: list[str]) -> list[int]:
        """Returns how many pictures each prompt takes; raises if they differ from the prompts' placeholders."""
        wanted = [prompt.count(IMAGE_TOKEN) for prompt in text]
        remedy = f"Put one {IMAGE_TOKEN} into the prompt for each of its images."
        if isinstance(images, list) and images and all(isinstance(row, (list, tuple)) for row in images):
            if len(images) != len(text):
                raise ValueError(f"There are images for {len(images)} prompts, but {len(text)} prompts.")
            for index, (row, count) in enumerate(zip(images, wanted, strict=True)):
                if len(row) != count:
                    raise ValueError(f"Prompt {index} has {count} {IMAGE_TOKEN}, but {len(row)} images. {remedy}")
            return wanted
        num_images = len(make_flat_list_of_images(images)) if images else 0
        if num_images != sum(wanted):
            counts = ", ".join(f"prompt {index}: {count}" for index, count in enumerate(wanted))
            raise ValueError(
                f"The prompts have {sum(wanted)} {IMAGE_TOKEN} ({counts}), but there are {num_images} images. {remedy}"
            )
        return wanted

    def _expand(self, prompt: str, visual_tokens: str) -> tuple[str, list[dict]]:
        """Expands the placeholders of a prompt, and notes where, in the form in which the library moves its masks."""
        pieces, offsets, last, length = [], [], 0, 0
        for match in re.finditer(f"{IMAGE_TOKEN}|{QUERY_SLOT_TOKEN}", prompt):
            replacement = visual_tokens if match.group() == IMAGE_TOKEN else self.query_slot
            before = prompt[last : match.start()]
            start = length + len(before)
            length = start + len(replacement)
            last = match.end()
            pieces += [before, replacement]
            offsets.append(
                {
                    "type": "image" if match.group() == IMAGE_TOKEN else "query",
                    "span": match.span(),
                    "new_span": (start, length),
                    "text": match.group(),
                    "replacement": replacement,
                }
            )
        return "".join([*pieces, prompt[last:]]), offsets

    def _check_lengths(self, input_ids, expanded: tuple[str, ...]):
        limit = self.tokenizer.model_max_length
        for index, (ids, prompt) in enumerate(zip(input_ids, expanded, strict=True)):
            ids = np.asarray(ids)
            num_tokens = int((ids != self.tokenizer.pad_token_id).sum())
            if num_tokens > limit:
                raise ValueError(
                    f"Prompt {index} has {num_tokens} tokens, but the decoder has {limit} positions: shorten the "
                    "text, or use fewer images or hd=False."
                )
            if int((ids == self.image_token_id).sum()) != prompt.count(IMAGE_TOKEN):
                raise ValueError(
                    f"Truncation cut the image tokens of prompt {index}: raise max_length or set truncation=False."
                )
            if np.isin(ids, self.query_token_ids).sum() < prompt.count(self.query_slot) * len(self.query_token_ids):
                raise ValueError(
                    f"Truncation cut the query tokens of prompt {index}: raise max_length or set truncation=False."
                )


def _special_tokens(tokenizer) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


FlashSlothProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["FlashSlothProcessor"]
