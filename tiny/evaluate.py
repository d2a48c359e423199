# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Measures the tiny checkpoints by exact match on held-out questions and prints a Markdown table:

    python -m flashsloth.tiny.evaluate [--questions 1000] [--split heldout] [--write]

Beside each checkpoint stands what it answers when every picture is replaced by grey, and what it reads of words and
numbers that are too small for the standard view. `--write` also notes the scores in `evaluation.json` of each
checkpoint, from which its model card is made.
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
from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor, register_auto_classes
from flashsloth.tiny.data import make_dataset
from flashsloth.tiny.questions import KINDS
from flashsloth.tiny.scenes import CANVAS


CHECKPOINTS = Path(flashsloth.__file__).parent / "checkpoints"
GREY = Image.new("RGB", (CANVAS, CANVAS), (127, 127, 127))
LONGEST_ANSWER = 32  # tokens
EVALUATION_FILE = "evaluation.json"

# The sets of questions, as their scores are noted.
SEEN = "generated pictures"
GREYED = "generated pictures, each replaced by grey"
SMALL = "generated pictures with small text"


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


@dataclass(frozen=True)
class Answers:
    """What a checkpoint answered: to the exam, to the exam with grey pictures, and about small text."""

    seen: list[Outcome]
    greyed: list[Outcome]
    small: list[Outcome]


def evaluate(folders: dict[str, Path], split: str, questions: int, small: int) -> dict[str, Answers]:
    """The answers of the given checkpoints to `questions` exam questions and `small` ones about small text."""
    exam = make_dataset("exam", split, questions)
    small_text = make_dataset("small_text", split, small)
    answers = {}
    for name, folder in folders.items():
        model, processor = load(folder)
        reading = examine(model, processor, small_text)
        seen = examine(model, processor, exam)
        answers[name] = Answers(seen, examine(model, processor, exam, grey=True), reading)
    return answers


def answers_table(answers: dict[str, Answers]) -> str:
    """The table of all checkpoints."""
    columns = {}
    for name, given in answers.items():
        columns[name] = by_kind(given.seen) | {"small text": accuracy(given.small)}
        columns[f"{name}, grey"] = by_kind(given.greyed)
    return table(columns)


def write_evaluation(folder: Path, answers: Answers, split: str, command: str) -> None:
    """
    Notes a checkpoint's scores in its `evaluation.json`.

    Args:
        folder (`Path`): The checkpoint.
        answers (`Answers`): What it answered.
        split (`str`): Split of the questions.
        command (`str`): What repeats the measurement.
    """
    scores = []
    for name, outcomes in ((SEEN, answers.seen), (GREYED, answers.greyed), (SMALL, answers.small)):
        counts = Counter(outcome.kind for outcome in outcomes) | {"all": len(outcomes)}
        kinds = by_kind(outcomes) if name != SMALL else {"all": accuracy(outcomes)}
        scores += [score(name, kind, value, counts[kind], split, command) for kind, value in kinds.items()]
    text = json.dumps(scores, indent=2, ensure_ascii=False)
    (folder / EVALUATION_FILE).write_text(text + "\n", encoding="utf-8")


def score(dataset: str, kind: str, value: float, n: int, split: str, command: str) -> dict:
    """One score as `evaluation.json` has it: `value` percent of the `n` questions of a kind."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder that holds the two checkpoints")
    parser.add_argument("--split", default="heldout", choices=("heldout", "validation"))
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--small", type=int, default=300, help="questions about small text")
    parser.add_argument("--write", action="store_true", help=f"note the scores in each checkpoint's {EVALUATION_FILE}")
    parsed = parser.parse_args()
    folders = checkpoint_folders(parsed.checkpoints)
    answers = evaluate(folders, parsed.split, parsed.questions, parsed.small)
    print(answers_table(answers))
    if parsed.write:
        command = command_line(parsed.split, parsed.questions, parsed.small)
        for name, folder in folders.items():
            write_evaluation(folder, answers[name], parsed.split, command)


def checkpoint_folders(folder: Path) -> dict[str, Path]:
    """The two checkpoints in a folder, by the names that the table has for them."""
    return {"standard": folder / "flashsloth-tiny", "HD": folder / "flashsloth-tiny-hd"}


def command_line(split: str, questions: int, small: int) -> str:
    """What repeats a measurement."""
    return f"python -m flashsloth.tiny.evaluate --split {split} --questions {questions} --small {small}"


if __name__ == "__main__":
    main()
