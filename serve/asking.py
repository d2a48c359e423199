# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A model that answers batches of rows. A row that fails has an error in place of an answer, and takes no other row of
its batch with it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image
from transformers.utils import is_torch_available

import flashsloth
from flashsloth.folders.errors import one_line
from flashsloth.image_reading_flashsloth import read_image
from flashsloth.serve.answer_files import Answered
from flashsloth.serve.questions import Row


READERS = 8  # images of a batch that are fetched or decoded at once
RETRY_WAITS = (2.0,)  # seconds before another try to fetch an image
# What a row may cause. Anything else is a fault of the machine or of the program, which the next row would meet too.
ROW_ERRORS: tuple[type[Exception], ...] = (ValueError, OSError, MemoryError)
if is_torch_available():
    import torch

    ROW_ERRORS += (torch.OutOfMemoryError,)


@dataclass(frozen=True)
class ModelOptions:
    """
    Which model answers, and how.

    Args:
        model (`str`): A folder, or `owner/name` on the Hub.
        revision (`str`, *optional*), dtype (`str`, *optional*, defaults to `"fast"`), trust_remote_code (`bool`,
            *optional*, defaults to `False`): See [`flashsloth.loading.load_model_and_processor`].
        hd (`bool`, *optional*): Whether images are processed in high definition; the checkpoint's default if unset.
        max_new_tokens (`int`, *optional*, defaults to 256): The longest answer.
        backend (`str`, *optional*, defaults to `"torch"`): See [`flashsloth.load`].
    """

    model: str
    revision: str | None = None
    dtype: str = "fast"
    trust_remote_code: bool = False
    hd: bool | None = None
    max_new_tokens: int = 256
    backend: str = "torch"


class BatchModel:
    """
    A model that answers batches of rows greedily.

    Args:
        options ([`ModelOptions`]): The model.
        local_sources (`bool`): Whether addresses of images may be those of this machine and its network.
    """

    def __init__(self, options: ModelOptions, local_sources: bool):
        self.options, self.local_sources = options, local_sources
        self.model = flashsloth.load(
            options.model,
            revision=options.revision,
            backend=options.backend,
            hd=options.hd,
            dtype=options.dtype,
            trust_remote_code=options.trust_remote_code,
        )

    def __call__(self, rows: Sequence[Row]) -> list[Answered]:
        """The answers to a batch, in its order."""
        return answer_rows(rows, self._ask, self.local_sources)

    def _ask(self, images: list[list[Image.Image]], questions: list[str]) -> list[str]:
        return list(map(str, self.model.ask(images, questions, max_new_tokens=self.options.max_new_tokens)))


def answer_rows(rows: Sequence[Row], ask: Callable, local_sources: bool = True) -> list[Answered]:
    """
    Answers a batch of rows; if that fails, one row after the other.

    Args:
        rows (`Sequence[Row]`): The rows.
        ask (`Callable`): Gives the answers to lists of images and questions.
        local_sources (`bool`, *optional*, defaults to `True`): See [`BatchModel`].

    Returns:
        `list[Answered]`: An answer or an error for each row, in their order.
    """
    with ThreadPoolExecutor(READERS) as readers:
        read = list(readers.map(lambda row: _read(row, local_sources), rows))
    sound = [(row, images) for row, images in zip(rows, read, strict=True) if not isinstance(images, Answered)]
    failed = {images.index: images for images in read if isinstance(images, Answered)}
    answered = failed | {answered.index: answered for answered in _ask_all(sound, ask)}
    return [answered[row.index] for row in rows]


def _read(row: Row, local_sources: bool) -> list[Image.Image] | Answered:
    """The images of a row, or its error."""
    if row.error is not None:
        return Answered(row.index, None, row.error)
    count, images = len(row.images), []
    for number, source in enumerate(row.images, 1):
        name = "The image" if count == 1 else f"Image {number} of {count}"
        try:
            images.append(read_image(source, name, local_sources=local_sources, retry_waits=RETRY_WAITS))
        except ROW_ERRORS as error:
            return Answered(row.index, None, _describe(error))
    return images


def _ask_all(rows: list[tuple[Row, list[Image.Image]]], ask: Callable) -> list[Answered]:
    if not rows:
        return []
    try:
        texts = ask([images for _, images in rows], [row.question for row, _ in rows])
    except ROW_ERRORS as error:
        if len(rows) == 1:
            return [Answered(rows[0][0].index, None, _describe(error))]
    else:
        return [Answered(row.index, text, None) for (row, _), text in zip(rows, texts, strict=True)]
    return [answered for row in rows for answered in _ask_all([row], ask)]


def _describe(error: BaseException) -> str:
    return one_line(error) or type(error).__name__
