# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How much time `flashsloth eval` saves by batches, and whether they change an answer. Questions of the generated set are
asked one by one and in batches of similar length, by the same code as a benchmark's.

    flashsloth bench eval
    flashsloth bench eval --model checkpoints/flashsloth-tiny-hd --batch-size 8

Each way is timed from the encoded images to the texts. They take turns, batch by batch, so that a busy moment of the
machine affects both. In float32, the default, the answers must be the same; with fewer bits the sums of a batch are
rounded in another order. The last line of standard output is one JSON object.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from flashsloth.bench.measure import Clock, device_name, log, print_table
from flashsloth.eval.asking import batches_of
from flashsloth.eval.greedy import GreedyModel
from flashsloth.eval.questions import Question
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor
from flashsloth.tiny.data import exam_row


MAX_NEW_TOKENS = 128  # as in most of the benchmarks


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    log(f"Drawing {args.questions} images")
    questions = [make_question(index) for index in range(args.questions)]
    model, processor = load_model_and_processor(args.model, dtype=args.dtype)
    ask = GreedyModel(model, processor, MAX_NEW_TOKENS)
    names = ("one by one", f"batches of {args.batch_size}")
    seconds, different = dict.fromkeys(names, 0.0), 0
    clock = Clock(model.device)
    answer_both(ask, questions[: args.batch_size], clock)  # warms up
    for batch in tqdm(batches_of(questions, args.batch_size), unit="batch", file=sys.stderr):
        alone, batched = answer_both(ask, batch, clock)
        different += sum(text != other for text, other in zip(alone[0], batched[0], strict=True))
        for name, (_, taken) in zip(names, (alone, batched), strict=True):
            seconds[name] += taken
    results = {
        name: {"seconds": round(taken, 2), "questions_per_s": round(len(questions) / taken, 2)}
        for name, taken in seconds.items()
    }
    print_table(results, rows=["seconds", "questions_per_s"])
    report = {
        "benchmark": "evaluation",
        "date": date.today().isoformat(),
        "model": Path(args.model).name,
        "questions": len(questions),
        "batch_size": args.batch_size,
        "dtype": args.dtype,
        "device": device_name(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **results,
        "different_answers": different,
        "time_ratio": round(seconds[names[1]] / seconds[names[0]], 4),
    }
    print(json.dumps(report))


def make_question(index: int) -> Question:
    """A held-out question of the generated set, with the bytes of its image."""
    row = exam_row("heldout", index)
    (part,) = (part for part in row["messages"][0]["content"] if part["type"] == "text")
    name = str(index)
    return Question(index, (name,), part["text"], row["images"][0]["bytes"], name, row["kind"])


def answer_both(ask: GreedyModel, batch: list[Question], clock: Clock) -> tuple[tuple[list[str], float], ...]:
    """The answers one by one and their seconds, then those of the batch."""
    return clock(lambda: [ask([question])[0] for question in batch]), clock(ask, batch)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flashsloth bench eval", description="What batches save an evaluation.")
    parser.add_argument(
        "--model", metavar="DIR", default=str(SHIPPED_CHECKPOINT), help="model folder (the shipped one)"
    )
    parser.add_argument("--questions", type=int, default=1000, help="questions (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="questions in a batch (%(default)s)")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the weights (%(default)s)"
    )
    args = parser.parse_args(argv)
    if min(args.questions, args.batch_size) < 1:
        parser.error("--questions and --batch-size must be 1 or more")
    return args


if __name__ == "__main__":
    main()
