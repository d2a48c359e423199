# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Makes the inputs of a training step from rows of a dataset."""

from typing import Any

import torch
from torch.nn import functional as F
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from flashsloth.image_reading_flashsloth import ImageError
from flashsloth.train.data.broken_rows import BrokenRowError
from flashsloth.train.data.images import read_row_image
from flashsloth.train.data.wording import hide_secrets, shorten


IGNORED = -100  # the label of tokens that the loss leaves out
IMAGE_CHANNELS = 3  # RGB


class Collator(DataCollatorForVisionLanguageModeling):
    """
    TRL's collator, for rows whose images are still files, rows that only fill a batch up, and batches without images.

    Images are decoded here, in the workers of a `DataLoader`; an error names the row by its id.

    Without an image the vision tower, the pooling, the projector and the Embedded Query module would not run, and
    would have no gradient. DDP, FSDP2 and ZeRO-3 wait for the gradients of all ranks, so one text-only batch on one
    rank would block them. Such a batch gets one blank view. Its placeholders are in the padding after the shortest
    row: no token attends to them, so the loss does not change, and the gradients of these modules are exactly zero.

    Args:
        processor ([`FlashSlothProcessor`]): The processor of the model.
        max_length (`int`, *optional*): The number of tokens that rows are cut to.
        assistant_only_loss (`bool`): `True`, so that the loss covers answers and their `</s>` only.

        The others are those of `trl.trainer.sft_trainer.DataCollatorForVisionLanguageModeling`.

    Raises:
        BrokenRowError: If an image cannot be decoded.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call([with_decoded_images(row) for row in examples])
        is_filler = torch.tensor([row.get("is_filler", False) for row in examples])
        batch["labels"][is_filler] = IGNORED
        if "pixel_values" not in batch:
            self._add_blank_view(batch)
        # The model would count too, but on a GPU it would have to wait for the result.
        is_image = batch["input_ids"] == self.processor.image_token_id
        num_views = is_image.sum(dim=-1, keepdim=True) // self.processor.num_visual_tokens
        batch["view_mask"] = (torch.arange(num_views.max()) < num_views).long()
        return batch

    def _add_blank_view(self, batch: dict[str, Any]) -> None:
        num_tokens = self.processor.num_visual_tokens
        lengths = batch["attention_mask"].sum(dim=-1)
        row, start = int(lengths.argmin()), int(lengths.min())
        length = max(batch["input_ids"].shape[1], start + num_tokens)
        if self.pad_to_multiple_of:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        padding = {"input_ids": self.processor.tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        for name, value in padding.items():
            batch[name] = F.pad(batch[name], (0, length - batch[name].shape[1]), value=value)
        batch["input_ids"][row, start : start + num_tokens] = self.processor.image_token_id
        size = self.processor.image_processor.size
        batch["pixel_values"] = torch.zeros(1, IMAGE_CHANNELS, size.height, size.width)


def with_decoded_images(row: dict[str, Any]) -> dict[str, Any]:
    """
    A row with images in place of files. Rows that hold images already stay as they are.

    Raises:
        BrokenRowError: If an image cannot be decoded.
    """
    try:
        images = [read_row_image(image) if isinstance(image, dict) else image for image in row["images"]]
    except ImageError as error:
        name = shorten(hide_secrets(str(row.get("id"))))
        raise BrokenRowError(
            f"row {name!r} cannot be read any more: {error} Repair it, and start the same command "
            "again to resume the run."
        ) from error
    return row | {"images": images}
