# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Greedy answers of a model of torch, by one `generate` for a batch."""

from collections.abc import Sequence

import torch

from flashsloth.assistant.options import answer_lengths
from flashsloth.eval.questions import Question
from flashsloth.image_reading_flashsloth import read_image


class GreedyModel:
    """
    A model that answers batches of questions with greedy decoding.

    Args:
        model: A FlashSloth model that generates.
        processor: Its processor.
        max_new_tokens (`int`): The longest answer.
        hd (`bool`, *optional*): Whether images are processed in high definition; the checkpoint's default if unset.
    """

    def __init__(self, model, processor, max_new_tokens: int, hd: bool | None = None):
        self.model, self.processor, self.max_new_tokens, self.hd = model, processor, max_new_tokens, hd

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """
        Raises:
            ValueError: If an image cannot be read, or a prompt leaves no room for an answer.
        """
        chats = []
        for question in questions:
            name = f"the image {question.image_name!r} of question {' '.join(question.key)!r}"
            image = read_image(question.image, name)
            content = [{"type": "image", "image": image}, {"type": "text", "text": question.prompt}]
            chats.append([{"role": "user", "content": content}])
        inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            hd=self.hd,
            processor_kwargs={"padding": True},
        ).to(self.model.device, dtype=self.model.dtype)
        prompt_lengths = inputs["attention_mask"].sum(dim=1).tolist()
        lengths = answer_lengths(prompt_lengths, self.max_new_tokens, self.model.config)
        output = self.model.generate(**inputs, max_new_tokens=max(lengths), do_sample=False, num_beams=1)
        rows = zip(output[:, inputs["input_ids"].shape[1] :].tolist(), lengths, strict=True)
        texts = self.processor.batch_decode([row[:longest] for row, longest in rows], skip_special_tokens=True)
        return [text.strip() for text in texts]
