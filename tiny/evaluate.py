# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Measures the tiny checkpoints by exact match on held-out questions, and prints a Markdown table:

    python -m flashsloth.tiny.evaluate [--questions 1000] [--split heldout] [--write]

The table has two columns for each checkpoint: with the images, and with a grey image in place of each. Its last line
is about words and numbers that are too small for the standard view. `--write` also saves the scores as
`evaluation.json` in each checkpoint, from which its model card is made: those with the images, as the grey ones are a
control and no result.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image
from tqdm import tqdm

import flashsloth
from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor
from flashsloth.arguments import OneLineParser
from flashsloth.folders.provenance import EVALUATION_FILE
from flashsloth.loading import load_model, load_processor
from flashsloth.tiny.data import make_dataset
from flashsloth.tiny.questions import KINDS
from flashsloth.tiny.scenes import CANVAS


CHECKPOINTS = Path(flashsloth.__file__).parent / "checkpoints"
GREY = Image.new("RGB", (CANVAS, CANVAS), (127, 127, 127))
LONGEST_ANSWER = 32  # tokens
QUESTIONS, SMALL_TEXT_QUESTIONS = 1000, 300  # of the published table

# The sets of questions, by their names in `evaluation.json`.
IMAGES = "generated images"
SMALL_TEXT = "generated images with small text"


@dataclass(frozen=True)
class Outcome:
    """The right answer to a question of some kind, and the model's answer."""

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
    """
    Answers every question of an exam with greedy decoding, in batches.

    Args:
        model ([`FlashSlothForCausalLM`]): The checkpoint's model.
        processor ([`FlashSlothProcessor`]): Its processor.
        exam (`Dataset`): Rows with one image, one question and one answer.
        grey (`bool`, *optional*, defaults to `False`): Whether to replace every image by a grey one.
        batch_size (`int`, *optional*, defaults to 50): Questions in a batch.

    Returns:
        `list[Outcome]`: One outcome for each row.
    """
    outcomes = []
    for start in tqdm(range(0, len(exam), batch_size), leave=False, file=sys.stderr):
        rows = [exam[index] for index in range(start, min(start + batch_size, len(exam)))]
        chats = []
        for row in rows:
            question = row["messages"][0]["content"][1]
            image = {"type": "image", "image": GREY if grey else row["images"][0]}
            chats.append([{"role": "user", "content": [image, question]}])
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
    """The share of right answers in percent."""
    return 100 * sum(outcome.is_right for outcome in outcomes) / len(outcomes)


def by_kind(outcomes: list[Outcome]) -> dict[str, float]:
    """The accuracy of all questions and of each kind, in percent."""
    groups = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.kind].append(outcome)
    return {"all": accuracy(outcomes)} | {kind: accuracy(groups[kind]) for kind in KINDS if groups[kind]}


def table(columns: dict[str, dict[str, float]]) -> str:
    """A Markdown table with a row for each kind and a column for each measurement."""
    names = list(columns)
    lines = ["| questions | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for kind in ("all", *KINDS, "small text"):
        cells = [f"{columns[name][kind]:.1f}" if kind in columns[name] else "" for name in names]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def load(folder: Path) -> tuple[FlashSlothForCausalLM, FlashSlothProcessor]:
    """The model and processor of a checkpoint, in float32."""
    return load_model(folder, dtype="float32"), load_processor(folder)


@dataclass(frozen=True)
class Answers:
    """A checkpoint's answers to an exam, to the same exam with grey images, and to questions about small text."""

    exam: list[Outcome]
    grey: list[Outcome]
    small_text: list[Outcome]


def evaluate(folders: dict[str, Path], split: str, questions: int, small: int) -> dict[str, Answers]:
    """The answers of checkpoints, by name, to `questions` questions of the exam and `small` ones about small text."""
    exam = make_dataset("exam", split, questions)
    small_text = make_dataset("small_text", split, small)
    answers = {}
    for name, folder in folders.items():
        model, processor = load(folder)
        answers[name] = Answers(
            exam=examine(model, processor, exam),
            grey=examine(model, processor, exam, grey=True),
            small_text=examine(model, processor, small_text),
        )
    return answers


def answers_table(answers: dict[str, Answers]) -> str:
    """The table of all checkpoints."""
    columns = {}
    for name, given in answers.items():
        columns[name] = by_kind(given.exam) | {"small text": accuracy(given.small_text)}
        columns[f"{name}, grey"] = by_kind(given.grey)
    return table(columns)


def write_evaluation(folder: Path, answers: Answers, split: str, command: str) -> None:
    """
    Saves a checkpoint's scores as its `evaluation.json`, without the control of grey images.

    Args:
        folder (`Path`): The checkpoint.
        answers (`Answers`): Its answers.
        split (`str`): The split of the questions.
        command (`str`): The command that repeats the measurement.
    """
    scores = []
    for name, outcomes in ((IMAGES, answers.exam), (SMALL_TEXT, answers.small_text)):
        counts = Counter(outcome.kind for outcome in outcomes) | {"all": len(outcomes)}
        kinds = by_kind(outcomes) if name != SMALL_TEXT else {"all": accuracy(outcomes)}
        scores += [score(name, kind, value, counts[kind], split, command) for kind, value in kinds.items()]
    text = json.dumps(scores, indent=2, ensure_ascii=False)
    (folder / EVALUATION_FILE).write_text(text + "\n", encoding="utf-8")


def score(dataset: str, kind: str, value: float, n: int, split: str, command: str) -> dict:
    """An entry of `evaluation.json`: `value` percent of the `n` questions of a kind are right."""
    return {
        "task": "visual question answering",
        "dataset": {"name": dataset, "repo": None, "config": kind, "split": split, "revision": None},
        "metric": "exact_match",
        "value": round(value, 1),
        "unit": "percent",
        "n": n,
        "origin": "measured",
        "source": None,
        "command": command,
        "date": date.today().isoformat(),
    }


def main() -> None:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=CHECKPOINTS,
        help="folder of the two checkpoints (default: those of the package)",
    )
    parser.add_argument("--split", default="heldout", choices=("heldout", "validation"), help="split of the questions")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="number of questions (%(default)s)")
    parser.add_argument(
        "--small", type=int, default=SMALL_TEXT_QUESTIONS, help="questions about small text (%(default)s)"
    )
    parser.add_argument("--write", action="store_true", help=f"also save each checkpoint's {EVALUATION_FILE}")
    parsed = parser.parse_args()
    folders = checkpoint_folders(parsed.checkpoints)
    answers = evaluate(folders, parsed.split, parsed.questions, parsed.small)
    print(answers_table(answers))
    if parsed.write:
        command = command_line(parsed.split, parsed.questions, parsed.small)
        for name, folder in folders.items():
            write_evaluation(folder, answers[name], parsed.split, command)


def checkpoint_folders(folder: Path) -> dict[str, Path]:
    """The two checkpoints in a folder, by their names in the table."""
    return {"standard": folder / "flashsloth-tiny", "HD": folder / "flashsloth-tiny-hd"}


def command_line(split: str, questions: int, small: int) -> str:
    """The command that repeats a measurement."""
    return f"python -m flashsloth.tiny.evaluate --split {split} --questions {questions} --small {small}"


if __name__ == "__main__":
    main()
