# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The evaluation of a run: which rows are held out, and how many of their answers the model gives word for word."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from flashsloth.processing_flashsloth import END_TOKEN, FlashSlothProcessor
from flashsloth.train.collator import with_decoded_images


EVAL_FOLDER = "eval_data"  # of a run's output folder: the result of validating what it is evaluated on
EXACT_MATCH = "exact_match"
# What an evaluation measures, by the names that `metric_for_best_model` takes. TRL adds the second.
METRICS = ("loss", "mean_token_accuracy", EXACT_MATCH)


def num_held_out(eval_split: float | int, num_rows: int) -> int:
    """
    The number of rows that a stage holds out.

    Args:
        eval_split (`float` or `int`): A share of the rows, below 1, or their number.
        num_rows (`int`): Number of different rows of the data.

    Raises:
        ValueError: If no row would be left to train on.
    """
    count = max(1, round(eval_split * num_rows)) if eval_split < 1 else int(eval_split)
    if count >= num_rows:
        raise ValueError(
            f"eval_split is {eval_split}, which holds out {count} rows, but the data has {num_rows}: lower it"
        )
    return count


def hold_out(dataset: Dataset, eval_split: float | int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Splits a set. A row that a mixture repeats is held out as a whole: no held-out row is trained on.

    Args:
        dataset (`Dataset`): All rows.
        eval_split (`float` or `int`): See [`num_held_out`].
        seed (`int`): Decides which rows are held out.

    Returns:
        The numbers of the rows to train on, and those of the rows that are held out, each in ascending order.

    Raises:
        ValueError: If no row would be left to train on.
    """
    rows = np.arange(len(dataset))
    if dataset._indices is not None:  # of a mixture: the rows of its sources, which it may repeat
        rows = dataset._indices.column(0).to_numpy()
    different, first = np.unique(rows, return_index=True)
    drawn = np.random.default_rng(seed).permutation(len(different))[: num_held_out(eval_split, len(different))]
    return np.flatnonzero(~np.isin(rows, different[drawn])), np.sort(first[drawn])


def sample(dataset: Dataset, num_rows: int | None, seed: int) -> Dataset:
    """As many rows of a set, drawn by the seed; all without a number."""
    if num_rows is None or num_rows >= len(dataset):
        return dataset
    return dataset.select(np.sort(np.random.default_rng(seed).permutation(len(dataset))[:num_rows]))


@torch.no_grad()
def num_exact_matches(
    model: nn.Module, processor: FlashSlothProcessor, dataset: Dataset, rows: list[int], batch_size: int
) -> int:
    """
    Counts the rows whose last answer the model gives word for word, by greedy decoding; spaces around it do not count.

    Args:
        model: A model that generates, in evaluation mode.
        processor ([`FlashSlothProcessor`]): Its processor.
        dataset (`Dataset`): With the columns of `flashsloth.train.data.formats`.
        rows (`list[int]`): The numbers of the rows to count.
        batch_size (`int`): Number of rows that are answered at once.

    Raises:
        BrokenRowError: If an image cannot be decoded.
    """
    matches, tokenizer = 0, processor.tokenizer
    for start in range(0, len(rows), batch_size):
        numbers = rows[start : start + batch_size]
        questions, expected = zip(*map(_question_and_answer, map(dataset.__getitem__, numbers)), strict=True)
        inputs = processor.apply_chat_template(
            list(questions),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(model.device)
        # An answer that goes on after the longest expected one is wrong, whatever follows.
        ends = [len(tokenizer(f" {answer}{END_TOKEN}", add_special_tokens=False)["input_ids"]) for answer in expected]
        ids = model.generate(**inputs, max_new_tokens=max(ends), do_sample=False, use_cache=True)
        ids = ids[:, inputs["input_ids"].shape[1] :]
        has_ended = (ids == tokenizer.convert_tokens_to_ids(END_TOKEN)).any(dim=1).tolist()
        answers = processor.batch_decode(ids, skip_special_tokens=True)
        for answer, other, is_whole in zip(answers, expected, has_ended, strict=True):
            matches += is_whole and answer.strip() == other.strip()
    return matches


def _question_and_answer(row: dict[str, Any]) -> tuple[list[dict], str]:
    """A conversation up to its last answer, with its images, and this answer."""
    row = with_decoded_images(row)
    images = iter(row["images"])
    last = max(index for index, message in enumerate(row["messages"]) if message["role"] == "assistant")
    question = [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "image": next(images)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in row["messages"][:last]
    ]
    return question, "".join(part["text"] for part in row["messages"][last]["content"])
