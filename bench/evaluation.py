# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How much time `flashsloth eval` saves by batches, and whether they change an answer. Questions of the generated set are
asked one by one and in batches of similar length, by the same code as a benchmark's.

    flashsloth bench eval
    flashsloth bench eval --model checkpoints/flashsloth-tiny-hd --batch-size 8

Each way is timed from the encoded images to the texts, after a batch that is not counted. In float32, the default, the
answers must be the same; with fewer bits the sums of a batch are rounded in another order. The last line of standard
output is one JSON object.
"""

import argparse
import json
import sys
from datetime import date

import torch
import transformers
from tqdm import tqdm

from flashsloth.bench.measure import Clock, device_name, log, print_table
from flashsloth.eval.asking import GreedyModel, batches_of
from flashsloth.eval.questions import Question
from flashsloth.loading import SHIPPED_CHECKPOINT, load
from flashsloth.tiny.data import exam_row


MAX_NEW_TOKENS = 128  # as in most of the benchmarks


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    log(f"Drawing {args.questions} images")
    questions = [make_question(index) for index in range(args.questions)]
    model, processor = load(args.model, dtype=args.dtype)
    ask = GreedyModel(model, processor, MAX_NEW_TOKENS)
    results, answers = {}, {}
    for name, size in (("one by one", 1), (f"batches of {args.batch_size}", args.batch_size)):
        ask(questions[:size])
        clock = Clock(model.device)
        answers[name], seconds = clock(answer_all, ask, questions, size, name)
        results[name] = {"seconds": round(seconds, 2), "questions_per_s": round(len(questions) / seconds, 2)}
    alone, batched = answers.values()
    seconds_alone, seconds_batched = (result["seconds"] for result in results.values())
    print_table(results, rows=["seconds", "questions_per_s"])
    report = {
        "benchmark": "evaluation",
        "date": date.today().isoformat(),
        "model": args.model,
        "questions": len(questions),
        "batch_size": args.batch_size,
        "dtype": args.dtype,
        "device": device_name(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **results,
        "different_answers": sum(text != batched[key] for key, text in alone.items()),
        "time_ratio": round(seconds_batched / seconds_alone, 4),
    }
    print(json.dumps(report))


def make_question(index: int) -> Question:
    """A held-out question of the generated set, with the bytes of its image."""
    row = exam_row("heldout", index)
    (part,) = (part for part in row["messages"][0]["content"] if part["type"] == "text")
    name = str(index)
    return Question(index, (name,), part["text"], row["images"][0]["bytes"], name, row["kind"])


def answer_all(ask: GreedyModel, questions: list[Question], batch_size: int, name: str) -> dict[tuple, str]:
    """The answers by the keys of the questions."""
    answers = {}
    for batch in tqdm(batches_of(questions, batch_size), desc=name, unit="batch", file=sys.stderr):
        answers |= zip([question.key for question in batch], ask(batch), strict=True)
    return answers


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
