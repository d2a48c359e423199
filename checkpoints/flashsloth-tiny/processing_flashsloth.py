# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Turns images and prompts, or whole conversations, into what the model takes."""

import itertools
import json
import re
import reprlib
from pathlib import Path

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import is_torch_tensor, logging

from .image_processing_flashsloth import FlashSlothImageProcessor, FlashSlothImageProcessorKwargs


IMAGE_TOKEN = "<image>"
QUERY_SLOT_TOKEN = "<learnable>"
QUERY_TOKEN = "<query_{}>"
END_TOKEN = "</s>"
PAD_TOKEN = "<pad>"

ROLE_OF_ANSWERS = "ASSISTANT:"  # in a prompt; a space, which belongs to the answer's first token, follows it
NO_PROMPTS = ("text_pair", "is_split_into_words", "return_overflowing_tokens")  # what tokenizers take besides prompts
IMAGE_TYPES = ("image", "image_url")  # the types of a message's parts that are images

# Put into the middle of text that only looks like a special token. The tokenizer finds special tokens before it
# normalizes, and its normalizer takes this character out again: the text stays what it was, and stays text.
ESCAPE = "\U000f0000"

logger = logging.get_logger(__name__)

# The published evaluation prompt: system prompt, roles, and no space before the query slot. Saved templates hold the
# query tokens in place of `<learnable>`, for whoever renders them with the tokenizer alone.
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


# What may be wrong with a conversation.
WRONG_ORDER = "wrong order of turns"
UNKNOWN_CONTENT = "unknown kind of content"
EMPTY_TURN = "empty turn"


class ConversationError(ValueError):
    """
    A conversation that the model cannot take.

    Args:
        detail (`str`): which message of which conversation, what is wrong with it and what to do.
        reason (`str`, *optional*): one of the constants above; a `DataLoader` loses it, which keeps the text only.
    """

    def __init__(self, detail: str, reason: str | None = None):
        super().__init__(detail)
        self.detail = detail
        self.reason = reason


def check_roles(messages: list[dict], name: str) -> None:
    """
    Raises a [`ConversationError`] unless user and assistant take turns, the user first, after at most one system
    prompt. `name` is what the error calls the conversation.
    """
    if not isinstance(messages, (list, tuple)):
        raise ConversationError(
            f"{name} is {reprlib.repr(messages)}: a conversation is a list of messages.", UNKNOWN_CONTENT
        )
    for message in messages:
        if not isinstance(message, dict):
            detail = f"{name} holds {reprlib.repr(message)}: a message is a dict with a role and a content."
            raise ConversationError(detail, UNKNOWN_CONTENT)
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns:
        problem = "holds a system prompt only" if roles else "is empty"
        raise ConversationError(f"{name} {problem}: it needs at least one user message.", WRONG_ORDER)
    for index, (role, expected) in enumerate(zip(turns, itertools.cycle(("user", "assistant")), strict=False)):
        if role != expected:
            detail = (
                f"{name} has the role {reprlib.repr(role)} where {expected!r} is expected (message {index} "
                "after the system prompt): user and assistant take turns, the user first."
            )
            raise ConversationError(detail, WRONG_ORDER)


def check_content(messages: list[dict], name: str) -> None:
    """
    Raises a [`ConversationError`] unless every message holds text, or a list of texts and images. `name` is what the
    error calls the conversation.
    """
    for index, message in enumerate(messages):
        content = message.get("content")
        if content is not None and not isinstance(content, (str, list, tuple)):
            detail = f"{name}, message {index} has the content {reprlib.repr(content)}: pass text or a list of parts."
            raise ConversationError(detail, UNKNOWN_CONTENT)
        if not content and content != "":
            detail = f"{name}, message {index} has no content: pass text or a list of parts."
            raise ConversationError(detail, EMPTY_TURN)
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if not isinstance(part, dict):
                problem = f"the part {reprlib.repr(part)}"
            elif part.get("type") in IMAGE_TYPES:
                continue
            elif part.get("type") == "text" and isinstance(part.get("text"), str):
                check_text(part["text"], f"{name}, message {index}")
                continue
            else:
                problem = f"a part of type {reprlib.repr(part.get('type'))}"
            detail = (
                f"{name}, message {index} has {problem}: pass {{'type': 'text', 'text': ...}} or "
                "{'type': 'image', 'image' or 'path' or 'url' or 'base64': ...}."
            )
            raise ConversationError(detail, UNKNOWN_CONTENT)


def check_text(text: str, name: str) -> None:
    """Raises a [`ConversationError`] if a text holds a lone surrogate; `name` is what the error calls the text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        detail = f"{name} has the lone surrogate {text[error.start]!r} at position {error.start}: take it out."
        raise ConversationError(detail, UNKNOWN_CONTENT) from error


class FlashSlothProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: FlashSlothImageProcessorKwargs


class FlashSlothInputs(BatchFeature):
    """
    The inputs of a batch. `inputs["view_mask"]` says how many views each row has. It is no key: trainers of the field
    hand all keys on, to functions that know the usual names only.
    """

    view_mask = None

    def __getitem__(self, item):
        if item != "view_mask" or self.view_mask is None:
            return super().__getitem__(item)
        input_ids = self.data["input_ids"]
        return self.view_mask.to(input_ids.device) if is_torch_tensor(input_ids) else self.view_mask


class FlashSlothProcessor(ProcessorMixin):
    r"""
    Prepares the model's inputs. Placeholders are expanded here, so that `input_ids` are as long as the sequence that
    the decoder takes: `<image>` to the visual tokens of all its views, `<learnable>` to the query tokens of one slot.

    Args:
        image_processor ([`FlashSlothImageProcessor`])
        tokenizer (`PreTrainedTokenizerFast`): with FlashSloth's special tokens, as `flashsloth.convert` adds them.
        num_visual_tokens (`int`, *optional*, defaults to 81): tokens per view, `FlashSlothConfig.num_visual_tokens`.
        num_query_tokens (`int`, *optional*, defaults to 9): tokens per slot, `FlashSlothConfig.num_query_tokens`.
        chat_template (`str`, *optional*): a Jinja template in place of the published prompt.
        escaped_tokens (`list[str]`, *optional*): what stays text where it stands in a conversation: by default all
            special tokens that the tokenizer has now. Tokens that are added to the tokenizer later work in messages.

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
        escaped_tokens: list[str] | None = None,
        **kwargs,
    ):
        self.num_visual_tokens = num_visual_tokens
        self.num_query_tokens = num_query_tokens
        self.image_token = IMAGE_TOKEN
        query_tokens = [QUERY_TOKEN.format(index) for index in range(num_query_tokens)]
        self.query_slot = "".join(query_tokens)
        own_tokens = [IMAGE_TOKEN, QUERY_SLOT_TOKEN, END_TOKEN, PAD_TOKEN, *query_tokens]
        self._check_tokenizer(tokenizer, own_tokens)
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.query_slot_token_id = tokenizer.convert_tokens_to_ids(QUERY_SLOT_TOKEN)
        self.query_token_ids = tokenizer.convert_tokens_to_ids(query_tokens)
        escaped_tokens = _special_tokens(tokenizer) if escaped_tokens is None else escaped_tokens
        if not isinstance(escaped_tokens, list) or not all(isinstance(t, str) and t for t in escaped_tokens):
            raise ValueError(f"escaped_tokens is {reprlib.repr(escaped_tokens)}: pass a list of tokens.")
        self.escaped_tokens = list(dict.fromkeys([*own_tokens, *escaped_tokens]))
        longest_first = sorted(self.escaped_tokens, key=len, reverse=True)
        self._escaped_token = re.compile("|".join(re.escape(token) for token in longest_first))
        chat_template = chat_template or CHAT_TEMPLATE.replace(QUERY_SLOT_TOKEN, self.query_slot)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        # Unless it is told, the library asks on standard input whether to run a folder's code.
        kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
        image_processor = FlashSlothImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return image_processor, cls._load_tokenizer_from_pretrained(
            "tokenizer", pretrained_model_name_or_path, **kwargs
        )

    @staticmethod
    def _check_tokenizer(tokenizer, special_tokens: list[str]):
        remedy = "Prepare the tokenizer with flashsloth.convert.add_special_tokens."
        missing = [token for token in special_tokens if token not in _special_tokens(tokenizer)]
        if missing:
            raise ValueError(f"The tokenizer has no special token {missing[0]!r}. {remedy}")
        if tokenizer.tokenize("a" + ESCAPE + "b") != tokenizer.tokenize("ab"):
            raise ValueError(f"The tokenizer's normalizer does not take out the escape character U+F0000. {remedy}")

    def __call__(
        self,
        images=None,
        text=None,
        videos=None,
        audio=None,
        return_view_mask: bool = False,
        **kwargs: Unpack[FlashSlothProcessorKwargs],
    ) -> BatchFeature:
        """
        Args:
            images: one image, a list of them (taken by the prompts in turn), or a list of lists (one per prompt, or
                `None`); see [`FlashSlothImageProcessor`] for what an image may be.
            text (`str` or `list[str]`): prompts with an `<image>` for each image, and a `<learnable>` where the query
                tokens go, which is right behind the question.
            hd (`bool`, *optional*): whether to add the high-resolution tiles; the checkpoint's default if unset.
            return_view_mask (`bool`, *optional*, defaults to `False`): whether `view_mask` is one of the keys. Without
                it the model counts the placeholders; compiled and exported models, and `get_image_features`, do not.
            return_tensors (`str`, *optional*): `"pt"` for tensors.

        Returns:
            [`FlashSlothInputs`] with `input_ids` and `attention_mask` of shape `(B, L)`, and if there are images,
            `pixel_values` of shape `(N, 3, height, width)`, and by its name `view_mask` of shape `(B, V)`. Without
            text only `pixel_values`.

        Raises:
            ValueError: If a prompt is no text, its placeholders do not fit its images, it is longer than the decoder,
                or an image or an option cannot be used.
        """
        if videos is not None or audio is not None:
            raise ValueError("FlashSloth takes images and text: videos and audio are not supported.")
        if text is not None:
            _check_prompts(text)
        elif images is None:
            raise ValueError("Pass images, text or both.")
        for name in NO_PROMPTS:
            if kwargs.get(name) or kwargs.get("text_kwargs", {}).get(name):
                raise ValueError(f"{name} has no meaning for prompts with placeholders: leave it out.")
        # Converted last: the tokenizer would take longer, and fail before the lengths are checked.
        return_tensors = kwargs.pop("return_tensors", None)
        crop_to_patches = kwargs.pop("crop_to_patches", None)
        if crop_to_patches is not None and kwargs.setdefault("hd", crop_to_patches) != crop_to_patches:
            raise ValueError(f"hd={kwargs['hd']!r} and crop_to_patches={crop_to_patches!r} contradict each other.")
        inputs = super().__call__(images=[] if images is None else images, text=text, **kwargs)
        inputs = FlashSlothInputs(inputs.data, return_tensors, skip_tensor_conversion=self.skip_tensor_conversion)
        if text is None or not return_view_mask:
            view_mask = inputs.data.pop("view_mask", None)
            inputs.view_mask = None if text is None else view_mask
        return inputs

    def prepare_inputs_layout(self, images=None, text=None, **kwargs):
        """Reads the images, and gives each prompt a list of its own."""
        options = {**kwargs, **kwargs.get("images_kwargs", {})}
        reading = {name: options[name] for name in ("input_data_format", "local_sources") if name in options}
        images = self.image_processor.fetch_images(images, **reading)
        _, text, *others = super().prepare_inputs_layout(text=text, **kwargs)
        images_by_prompt = self._split_images(images, text) if text is not None else [make_flat_list_of_images(images)]
        return images_by_prompt, text, *others

    def _split_images(self, images, text: list[str]) -> list[list]:
        expected = [prompt.count(IMAGE_TOKEN) for prompt in text]
        remedy = f"Put one {IMAGE_TOKEN} into the prompt for each of its images."
        if isinstance(images, list) and images and all(isinstance(row, list) for row in images):
            if len(images) != len(text):
                raise ValueError(f"There are images for {len(images)} prompts, but {len(text)} prompts.")
            for index, (row, count) in enumerate(zip(images, expected, strict=True)):
                if len(row) != count:
                    raise ValueError(f"Prompt {index} has {count} {IMAGE_TOKEN}, but {len(row)} images. {remedy}")
            return images
        images = make_flat_list_of_images(images)
        if len(images) != sum(expected):
            counts = ", ".join(f"prompt {index}: {count}" for index, count in enumerate(expected))
            problem = f"The prompts have {sum(expected)} {IMAGE_TOKEN} ({counts}), but {len(images)} images are given."
            raise ValueError(f"{problem} {remedy}")
        return [images[start:end] for start, end in itertools.pairwise(itertools.accumulate(expected, initial=0))]

    def _process_images(self, images: list[list], **kwargs):
        if not any(images):
            return {}, []
        size = self.image_processor._standardize_kwargs(size=kwargs.get("size"))["size"]
        if size not in (None, self.image_processor.size):
            raise ValueError(f"size={kwargs['size']!r} is not the size of the model's views: leave it out.")
        if kwargs.get("hd") and not self.image_processor.hd:
            logger.warning_once(
                "hd=True, but this checkpoint's own setting is hd=False: a model that was not trained with tiles "
                "answers worse with them. Leave hd out, or take a checkpoint that was trained with hd."
            )
        inputs, replacements = super()._process_images(images, **kwargs)
        views_per_image = self.image_processor.num_views(kwargs.get("hd"), kwargs.get("tile_grid"))
        num_views = np.array([len(row) for row in images]) * views_per_image
        view_mask = np.arange(max([1, *num_views])) < num_views[:, None]
        return {**inputs, "view_mask": view_mask.astype(np.int64)}, replacements

    def num_image_tokens(self, hd: bool | None = None, tile_grid: int | None = None) -> int:
        """Positions that an image takes in the decoder; `None` takes the image processor's own setting."""
        return self.num_visual_tokens * self.image_processor.num_views(hd, tile_grid)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        return IMAGE_TOKEN * self.num_image_tokens(kwargs.get("hd"), kwargs.get("tile_grid"))

    def get_text_with_replacements(self, text: list[str], images_replacements: list[str] = (), *others):
        """Expands query slots too; the base class knows placeholders of images, videos and audio only."""
        replacements, expanded, offsets = iter(images_replacements), [], []
        for prompt in text:
            pieces, replaced, last, length = [], [], 0, 0
            for match in re.finditer(f"{IMAGE_TOKEN}|{QUERY_SLOT_TOKEN}", prompt):
                is_image = match.group() == IMAGE_TOKEN
                replacement = next(replacements) if is_image else self.query_slot
                pieces += [prompt[last : match.start()], replacement]
                start, last = length + match.start() - last, match.end()
                length = start + len(replacement)
                replaced.append(
                    {
                        "type": "image" if is_image else "query",
                        "span": match.span(),
                        "new_span": (start, length),
                        "text": match.group(),
                        "replacement": replacement,
                    }
                )
            expanded.append("".join([*pieces, prompt[last:]]))
            offsets.append(replaced)
            if IMAGE_TOKEN in prompt and self.query_slot not in expanded[-1]:
                logger.warning_once(
                    f"A prompt has an image but no {QUERY_SLOT_TOKEN}, so no query tokens attend to the image: write "
                    f"{QUERY_SLOT_TOKEN} right behind the question, or use apply_chat_template."
                )
        return expanded, offsets

    def _check_special_mm_tokens(self, text: list[str], text_inputs, modalities: list[str]):
        """Checks the lengths of the tokenized prompts, and that truncation has left all image and query tokens."""
        limit, remedy = self.tokenizer.model_max_length, "raise max_length or set truncation=False."
        for index, (prompt, ids) in enumerate(zip(text, text_inputs["input_ids"], strict=True)):
            ids = np.asarray(ids)
            num_tokens = np.count_nonzero(ids != self.tokenizer.pad_token_id)
            if num_tokens > limit:
                raise ValueError(
                    f"Prompt {index} has {num_tokens} tokens, but the decoder has {limit} positions: shorten the "
                    "text, or use fewer images or hd=False."
                )
            if np.count_nonzero(ids == self.image_token_id) != prompt.count(IMAGE_TOKEN):
                raise ValueError(f"Truncation cut the image tokens of prompt {index}: {remedy}")
            num_query_tokens = prompt.count(self.query_slot) * self.num_query_tokens
            if np.count_nonzero(np.isin(ids, self.query_token_ids)) < num_query_tokens:
                raise ValueError(f"Truncation cut the query tokens of prompt {index}: {remedy}")

    def sequence_length(self, messages: list[dict], hd: bool | None = None) -> int:
        """
        Positions that a conversation takes in the decoder, counted without its images.

        Args:
            messages (`list[dict]`): a conversation; its images may be placeholders, `{"type": "image"}`.
            hd (`bool`, *optional*): whether the images get high-resolution tiles.

        Raises:
            ConversationError: As in [`~FlashSlothProcessor.apply_chat_template`].
        """
        prompt = self.apply_chat_template(messages)
        ids = self.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        added_by_images = ids.count(self.image_token_id) * (self.num_image_tokens(hd) - 1)
        return len(ids) + added_by_images + ids.count(self.query_slot_token_id) * (self.num_query_tokens - 1)

    def apply_chat_template(self, conversation, chat_template=None, hd: bool | None = None, **kwargs):
        """
        [`ProcessorMixin.apply_chat_template`], for a conversation (or a list of them) of `system`, `user` and
        `assistant` messages. Text that looks like a special token stays text. `hd` overrides the checkpoint's default.

        Raises:
            ConversationError: If a conversation is empty, its roles do not alternate, or a message has no content or
                content of an unknown kind.
        """
        kwargs.pop("sanitize_control_tokens", None)  # is always done here, and with exact assistant masks
        if hd is not None:
            processor_kwargs = {"hd": hd, **(kwargs.get("processor_kwargs") or {})}
            if processor_kwargs["hd"] != hd:
                raise ValueError(f"hd={hd!r} and processor_kwargs={{'hd': {not hd}}} contradict each other: drop one.")
            kwargs["processor_kwargs"] = processor_kwargs
        if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "messages"):
            raise ValueError(f"A conversation is a list of messages, got {type(conversation).__name__}.")
        is_batched = bool(conversation) and not isinstance(conversation[0], dict)
        conversations = [getattr(chat, "messages", chat) for chat in conversation] if is_batched else [conversation]
        for index, messages in enumerate(conversations):
            name = f"Conversation {index}" if is_batched else "The conversation"
            check_roles(messages, name)
            check_content(messages, name)
        conversations = [
            [{**message, "content": self._escape_content(message["content"])} for message in messages]
            for messages in conversations
        ]
        result = super().apply_chat_template(
            conversations if is_batched else conversations[0], chat_template=chat_template, **kwargs
        )
        if kwargs.get("tokenize") or not self.num_query_tokens:
            return result
        prompts = [
            prompt.replace(self.query_slot, QUERY_SLOT_TOKEN) for prompt in (result if is_batched else [result])
        ]
        return prompts if is_batched else prompts[0]

    def decode(self, *args, **kwargs):
        """The tokenizer's `decode`, without the space in front of an answer."""
        text = super().decode(*args, **kwargs)
        return text.removeprefix(" ") if isinstance(text, str) else [one.removeprefix(" ") for one in text]

    def batch_decode(self, *args, **kwargs):
        """The tokenizer's `batch_decode`, without the space in front of an answer."""
        return [text.removeprefix(" ") for text in super().batch_decode(*args, **kwargs)]

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens=True, **kwargs):
        """The texts of generated sequences, prompts included, without the space in front of an answer."""
        texts = self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)
        return [text.replace(f"{ROLE_OF_ANSWERS} ", ROLE_OF_ANSWERS) for text in texts]

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves processor, tokenizer and code."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        # The library names the processor's code in the tokenizer's file, though a tokenizer may be saved without it.
        file = Path(save_directory) / "tokenizer_config.json"
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings.pop("auto_map", None)
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return files

    def _adjust_assistant_masks_indices(self, processed_dict, generation_indices):
        # It reads all offsets once for every answer: from tensors that took ten times as long as all the rest.
        processed_dict["offset_mapping"] = np.asarray(processed_dict["offset_mapping"]).tolist()
        return super()._adjust_assistant_masks_indices(processed_dict, generation_indices)

    def _escape_content(self, content: str | list[dict]) -> str | list[dict]:
        if isinstance(content, str):
            return self._escape(content)
        parts = []
        for is_text, group in itertools.groupby(content, key=lambda part: part["type"] == "text"):
            if is_text:
                # Escaped as one, since the template joins them: a special token may be split over two parts.
                parts.append({"type": "text", "text": self._escape("".join(part["text"] for part in group))})
            else:
                parts.extend(group)
        return parts

    def _escape(self, text: str) -> str:
        text = text.replace(ESCAPE, "")
        return self._escaped_token.sub(lambda match: match.group()[0] + ESCAPE + match.group()[1:], text)


def _check_prompts(text) -> None:
    """Raises a `ValueError` unless `text` is a prompt, or a list of prompts."""
    prompts = [text] if isinstance(text, str) else text
    if not isinstance(prompts, (list, tuple)) or not prompts:
        raise ValueError(f"text is {reprlib.repr(text)}: pass a prompt, or a list of at least one.")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"Prompt {index} is {reprlib.repr(prompt)}: a prompt is a string.")
        check_text(prompt, f"Prompt {index}")


def _special_tokens(tokenizer) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


FlashSlothProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["FlashSlothProcessor"]
