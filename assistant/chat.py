# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A conversation that computes each image and each turn once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flashsloth.assistant.answer import Answer
from flashsloth.assistant.options import chat_options
from flashsloth.assistant.questions import read_images, system_messages, user_message
from flashsloth.assistant.stream import Stream, Watch


if TYPE_CHECKING:
    from flashsloth.assistant.assistant import Assistant


# A turn before the new one, whatever it was: what a template writes between turns does not depend on their words.
EARLIER = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class ConversationTooLong(ValueError):
    """A conversation that has no room for the next question."""


class Chat:
    """
    A conversation with a model, which [`Assistant.chat`] begins.

    Args:
        assistant ([`Assistant`]): Answers.
        system (`str`, *optional*): A system prompt in place of the published one.
        hd (`bool`, *optional*): Whether images are processed in high definition, which may be changed between turns;
            the assistant's default if unset.
    """

    def __init__(self, assistant: Assistant, system: str | None = None, hd: bool | None = None):
        self.assistant, self.system, self.hd = assistant, system, hd
        self._stream: Stream | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets all turns. An answer that is still being made is stopped."""
        self._end_stream()
        self._memory = self.assistant.backend.new_memory()
        self._images: list = []
        self._hd_by_image: list[bool] = []
        self._messages = system_messages(self.system)

    @property
    def messages(self) -> list[dict]:
        """The conversation so far, as [`FlashSlothProcessor.apply_chat_template`] takes it."""
        return list(self._messages)

    def ask(self, question: str, images=None, *, explain: bool = False, **options) -> Answer:
        """
        Asks the next question. If that fails, the chat is as it was before.

        Args:
            question (`str`): The question.
            images (*optional*): New images for it, one or a list; earlier ones stay in view.
            explain (`bool`, *optional*, defaults to `False`): Whether the answer tells what the model looked at, in
                all images of the chat.
            options: Generation options, as [`Assistant`] has them.

        Raises:
            ValueError: If an image cannot be read, the question is empty, the conversation is longer than the decoder,
                or an option is unknown or has no effect.
        """
        options, images = chat_options(options, self.assistant.model.config), read_images(images)
        self._end_stream()
        return self._answer(question, images, explain, options, Watch())

    def stream(self, question: str, images=None, *, explain: bool = False, **options) -> Stream:
        """
        Asks the next question and gives the answer piece by piece; the arguments are those of `ask`. An answer that is
        closed before its end stays in the conversation as far as it went, and the next question closes it.

        Returns:
            [`Stream`]: An iterator over the pieces, with the whole `answer` when they are there.
        """
        options, images = chat_options(options, self.assistant.model.config), read_images(images)
        self._end_stream()

        def answer_with(watch: Watch) -> Answer:
            return self._answer(question, images, explain, options, watch)

        self._stream = Stream(answer_with, self.assistant.processor.tokenizer)
        return self._stream

    def _end_stream(self) -> None:
        """Two turns at once would write into one memory."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _answer(self, question: str, images: list, explain: bool, options: dict, watch: Watch) -> Answer:
        message = user_message(question, images)
        hd = self.assistant.uses_hd(self.hd)
        inputs = self._prepare(message, images, hd)
        all_images, hd_by_image = self._images + images, self._hd_by_image + [hd] * len(images)
        before = replace(self._memory)
        try:
            (prompt,), (tokens,) = self.assistant.backend.generate(inputs, options, watch, self._memory)
            answer = self.assistant.make_answer(prompt, tokens, options, watch)
            if explain:
                attention = self.assistant.explain(inputs, self._memory, answer, all_images, hd_by_image)
                answer = replace(answer, attention=attention)
        except BaseException:
            self._memory = before.with_sound_cache()
            raise
        self._images, self._hd_by_image = all_images, hd_by_image
        self._messages += [message, {"role": "assistant", "content": answer.text}]
        return answer

    def _prepare(self, message: dict, images: list, hd: bool):
        """The inputs of a turn alone; of the first one, with what is before it."""
        processor = self.assistant.processor
        has_begun = self._memory.input_ids is not None
        before = [*system_messages(self.system), *(EARLIER if has_begun else [])]
        text = processor.apply_chat_template([*before, message], add_generation_prompt=True)
        if has_begun:
            earlier = processor.apply_chat_template(before)
            if not text.startswith(earlier):
                raise ValueError(
                    "The model's chat template changes earlier turns when a new one comes, so no chat can keep them: "
                    "ask with the whole conversation, by model.processor and model.model.generate."
                )
            text = text.removeprefix(earlier)
        inputs = processor(
            images=images or None,
            text=text,
            hd=hd,
            return_tensors=self.assistant.backend.tensor_type,
            add_special_tokens=not has_begun,
        )
        earlier_length = self._memory.input_ids.shape[1] if has_begun else 0
        length, limit = earlier_length + inputs["input_ids"].shape[1], processor.tokenizer.model_max_length
        if length > limit:
            raise ConversationTooLong(
                f"The conversation has {length} tokens with this question, but the decoder has {limit} positions: "
                "begin a new one."
            )
        return inputs
