# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Exports the tiny checkpoints to ONNX, asks them held-out questions by onnxruntime, and prints a Markdown table of size
and accuracy, by exact match, beside torch in float32:

    python -m flashsloth.tiny.exported [--questions 1000] [--small 300] [--split heldout]

Size is that of the three graphs. The exam is that of `flashsloth.tiny.evaluate`, which has the accuracy by kind; small
text is asked of the checkpoint for high definition, which is for it. `equal` counts the answers that are those of
torch, word for word.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

import flashsloth
from flashsloth.arguments import OneLineParser
from flashsloth.assistant.assistant import Assistant
from flashsloth.export.onnx import export_onnx
from flashsloth.folders.exported import WEIGHTS, files_of, read_export
from flashsloth.tiny.data import make_dataset
from flashsloth.tiny.evaluate import (
    CHECKPOINTS,
    LONGEST_ANSWER,
    QUESTIONS,
    SMALL_TEXT_QUESTIONS,
    Outcome,
    accuracy,
    checkpoint_folders,
)


BATCH_SIZE = 20
TORCH = "torch float32"


def examine(assistant: Assistant, exam: Dataset) -> list[Outcome]:
    """
    Answers every question of an exam greedily, in batches.

    Args:
        assistant ([`~flashsloth.assistant.assistant.Assistant`]): Answers.
        exam (`Dataset`): Rows with one image, one question and one answer.

    Returns:
        `list[Outcome]`: One outcome for each row.
    """
    outcomes = []
    for start in tqdm(range(0, len(exam), BATCH_SIZE), leave=False, file=sys.stderr):
        rows = [exam[index] for index in range(start, min(start + BATCH_SIZE, len(exam)))]
        questions = [row["messages"][0]["content"][1]["text"] for row in rows]
        answers = assistant.ask([row["images"][0] for row in rows], questions, max_new_tokens=LONGEST_ANSWER)
        for row, answer in zip(rows, answers, strict=True):
            expected = row["messages"][1]["content"][0]["text"]
            outcomes.append(Outcome(row["kind"], expected, answer.text))
    return outcomes


def measure(checkpoint: Path, exported: Path, exams: list[Dataset]) -> dict[str, dict]:
    """
    Size and accuracy of a checkpoint in torch and with each of the weights.

    Args:
        checkpoint (`Path`): The checkpoint.
        exported (`Path`): Folder to write the exported model into.
        exams (`list[Dataset]`): Questions.

    Returns:
        `dict[str, dict]`: By name "mb", and a list of "accuracy" and of "equal", in percent, for each exam.
    """
    export_onnx(checkpoint, exported, WEIGHTS)
    record = read_export(exported)
    by_torch = flashsloth.load(checkpoint, device="cpu", dtype="float32")
    expected = [examine(by_torch, exam) for exam in exams]
    results = {TORCH: {"accuracy": list(map(accuracy, expected))}}
    for weights in WEIGHTS:
        assistant = flashsloth.load(exported, backend="onnxruntime", dtype=weights)
        outcomes = [examine(assistant, exam) for exam in exams]
        results[f"onnxruntime {weights}"] = {
            "mb": sum(files_of(record, weights).values()) / 1e6,
            "accuracy": list(map(accuracy, outcomes)),
            "equal": [_equal(*pair) for pair in zip(outcomes, expected, strict=True)],
        }
    return results


def _equal(outcomes: list[Outcome], expected: list[Outcome]) -> float:
    """The share of equal answers in percent."""
    pairs = zip(outcomes, expected, strict=True)
    return 100 * sum(one.answer == other.answer for one, other in pairs) / len(outcomes)


def table(results: dict[str, dict[str, dict]]) -> str:
    """
    A Markdown table with a row for each kind of weights.

    Args:
        results (`dict[str, dict[str, dict]]`): By checkpoint and exam, those of [`measure`].
    """
    columns = [f"{name}: {column}" for name in results for column in ("MB", "right, %", "equal, %")]
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for row in next(iter(results.values())):
        cells = []
        for measured in results.values():
            values = (measured[row].get("mb"), measured[row]["accuracy"], measured[row].get("equal"))
            cells += ["" if value is None else f"{value:.1f}" for value in values]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    args = parser.parse_args()
    exam = make_dataset("exam", args.split, args.questions)
    small_text = make_dataset("small_text", args.split, args.small)
    results = {}
    with tempfile.TemporaryDirectory(prefix="flashsloth-exported-") as folder:
        for name, checkpoint in checkpoint_folders(args.checkpoints).items():
            exams = {"exam": exam} | ({"small text": small_text} if name == "HD" else {})
            measured = measure(checkpoint, Path(folder) / name, list(exams.values()))
            for index, asked in enumerate(exams):
                results[f"{name}, {asked}"] = {
                    row: {**found, **{key: found[key][index] for key in ("accuracy", "equal") if key in found}}
                    for row, found in measured.items()
                }
    print(table(results))


if __name__ == "__main__":
    main()
