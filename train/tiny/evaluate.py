# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Measures the tiny checkpoints by exact match on held-out questions and prints a Markdown table:

    python -m flashsloth.train.tiny.evaluate [--questions 1000] [--split heldout]

Beside each checkpoint stands what it answers when every picture is replaced by grey, and what it reads of words and
numbers that are too small for the standard view.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image
from tqdm import tqdm

import flashsloth
from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor, register_auto_classes
from flashsloth.train.tiny.data import make_dataset
from flashsloth.train.tiny.questions import KINDS
from flashsloth.train.tiny.scenes import CANVAS


CHECKPOINTS = Path(flashsloth.__file__).parent / "checkpoints"
GREY = Image.new("RGB", (CANVAS, CANVAS), (127, 127, 127))
LONGEST_ANSWER = 32  # tokens


@dataclass(frozen=True)
class Outcome:
    """One question, its answer, and what the model said."""

    kind: str
    expected: str
    answer: str

    @property
    def is_right(self) -> bool:
        return self.answer == self.expected


@torch.inference_mode()
def examine(
    model: FlashSlothForCausalLM,
    processor: FlashSlothProcessor,
    exam: Dataset,
    grey: bool = False,
    batch_size: int = 50,
) -> list[Outcome]:
    """Greedy answers to every question of an exam, in batches.

    Args:
        model, processor: The checkpoint.
        exam (`Dataset`): Rows with one picture, one question and one answer.
        grey (`bool`, *optional*, defaults to `False`): Whether to show a grey picture in place of each.
        batch_size (`int`, *optional*, defaults to 50): Questions per batch.
    """
    outcomes = []
    for start in tqdm(range(0, len(exam), batch_size), leave=False, file=sys.stderr):
        rows = [exam[index] for index in range(start, min(start + batch_size, len(exam)))]
        chats = []
        for row in rows:
            question = row["messages"][0]["content"][1]
            picture = {"type": "image", "image": GREY if grey else row["images"][0]}
            chats.append([{"role": "user", "content": [picture, question]}])
        inputs = processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER)
        texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            expected = row["messages"][1]["content"][0]["text"]
            outcomes.append(Outcome(row["kind"], expected, text.strip()))
    return outcomes


def accuracy(outcomes: list[Outcome]) -> float:
    """Share of right answers in percent."""
    return 100 * sum(outcome.is_right for outcome in outcomes) / len(outcomes)


def by_kind(outcomes: list[Outcome]) -> dict[str, float]:
    """Accuracy of all questions and of every kind, in percent."""
    groups = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.kind].append(outcome)
    return {"all": accuracy(outcomes)} | {kind: accuracy(groups[kind]) for kind in KINDS if groups[kind]}


def table(columns: dict[str, dict[str, float]]) -> str:
    """A Markdown table with a row for every kind and a column for every measurement."""
    names = list(columns)
    lines = ["| questions | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for kind in ("all", *KINDS, "small text"):
        cells = [f"{columns[name][kind]:.1f}" if kind in columns[name] else "" for name in names]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def load(folder: Path) -> tuple[FlashSlothForCausalLM, FlashSlothProcessor]:
    """A checkpoint in float32, ready to answer."""
    register_auto_classes()
    return FlashSlothForCausalLM.from_pretrained(folder, dtype="float32").eval(), FlashSlothProcessor.from_pretrained(
        folder
    )


def evaluate(folders: dict[str, Path], split: str, questions: int, small: int) -> str:
    """The table for the given checkpoints, on `questions` exam questions and `small` ones about small text."""
    exam = make_dataset("exam", split, questions)
    small_text = make_dataset("small_text", split, small)
    columns = {}
    for name, folder in folders.items():
        model, processor = load(folder)
        reading = accuracy(examine(model, processor, small_text))
        columns[name] = by_kind(examine(model, processor, exam)) | {"small text": reading}
        columns[f"{name}, grey"] = by_kind(examine(model, processor, exam, grey=True))
    return table(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder that holds the two checkpoints")
    parser.add_argument("--split", default="heldout", choices=("heldout", "validation"))
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--small", type=int, default=300, help="questions about small text")
    parsed = parser.parse_args()
    folders = {
        "standard": parsed.checkpoints / "flashsloth-tiny",
        "HD": parsed.checkpoints / "flashsloth-tiny-hd",
    }
    print(evaluate(folders, parsed.split, parsed.questions, parsed.small))


if __name__ == "__main__":
    main()
