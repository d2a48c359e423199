# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What `flashsloth answer` costs, and what workers gain: rows of the generated set through a plain loop over batches in
this process, through one worker, and through several, by the code of the command.

    flashsloth bench answer
    flashsloth bench answer --model checkpoints/flashsloth-tiny-hd --workers 4

The ways take turns, and each figure is the median of its runs. A rate is that of the rows after the first batch; the
seconds until that batch, in which Ray starts processes that load the model, stand beside it. All ways share the same
cores: the plain loop and the one worker have all of them, several workers an equal part each. So on a CPU workers
gain only what one model's threads leave idle, while on GPUs each has one of its own. The last line of standard output
is one JSON object.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import ray
import torch
from tqdm import tqdm

from flashsloth.bench.measure import device_name, log, print_table
from flashsloth.loading import SHIPPED_CHECKPOINT, default_device
from flashsloth.serve.answer_files import Answered, Journal
from flashsloth.serve.asking import BatchModel, ModelOptions
from flashsloth.serve.dataset import answer_batches, plan_workers, ray_session
from flashsloth.serve.questions import Questions, select_columns
from flashsloth.serve.sources import open_source
from flashsloth.tiny.data import exam_row


PLAIN = "plain loop"
NUM_WARM_UP = 2  # batches of the plain loop, whose process has a model already


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    with tempfile.TemporaryDirectory() as folder, ray_session(None, args.workers):
        log(f"Drawing {args.rows} images")
        questions = write_questions(Path(folder), args.rows)
        options = ModelOptions(str(Path(args.model).absolute()), dtype=args.dtype, max_new_tokens=args.max_new_tokens)
        model = BatchModel(options, local_sources=True)
        warm_up = plain_loop(questions, model, args.batch_size)
        list(islice(warm_up, NUM_WARM_UP))
        ways = [PLAIN, *dict.fromkeys((name_of(1), name_of(args.workers)))]
        runs, answers = {name: [] for name in ways}, {}
        for _ in tqdm(range(args.repeats), unit="round", file=sys.stderr):
            for name in ways:
                count = 1 if name == name_of(1) else args.workers
                if name == PLAIN:
                    batches = plain_loop(questions, model, args.batch_size)
                else:
                    batches = through_workers(questions, options, count, args.batch_size, Path(folder))
                run, answers[name] = timed(batches)
                runs[name].append(run)
    report(args, runs, answers)


def write_questions(folder: Path, count: int) -> Questions:
    """Held-out questions of the generated set, as JSON lines with images beside them."""
    lines = []
    for index in range(count):
        row = exam_row("heldout", index)
        (text,) = (part["text"] for part in row["messages"][0]["content"] if part["type"] == "text")
        (folder / f"{index}.png").write_bytes(row["images"][0]["bytes"])
        lines.append(json.dumps({"question": text, "image": f"{index}.png"}) + "\n")
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    return select_columns(open_source([str(folder / "questions.jsonl")]))


def name_of(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def plain_loop(questions: Questions, model: BatchModel, batch_size: int) -> Iterator[list[Answered]]:
    """The answers of one model in this process, batch by batch."""
    rows = questions.rows([])
    while batch := list(islice(rows, batch_size)):
        yield model(batch)


def through_workers(
    questions: Questions, options: ModelOptions, count: int, batch_size: int, folder: Path
) -> Iterator[list[Answered]]:
    """The answers of workers, which are written to a file as the command does."""
    nodes = [node["Resources"] for node in ray.nodes()]
    workers = plan_workers(count, nodes, is_local=True)
    file = folder / "journal"
    with Journal(file) as journal:
        for batch in answer_batches(questions, [], options, workers, batch_size):
            journal.append(batch)
            yield batch
    file.unlink()


def timed(batches: Iterable[list[Answered]]) -> tuple[dict[str, float], list[Answered]]:
    """Seconds until the first batch and rows per second after it; and the answers by their rows."""
    start = first = last = time.perf_counter()
    answers, num_first = [], 0
    for batch in batches:
        last = time.perf_counter()
        if not answers:
            first, num_first = last, len(batch)
        answers += batch
    answers.sort(key=lambda answered: answered.index)
    return {"start_s": first - start, "rows_per_s": (len(answers) - num_first) / (last - first)}, answers


def report(args: argparse.Namespace, runs: dict[str, list[dict[str, float]]], answers: dict) -> None:
    """Prints a table of medians, and one JSON object."""
    results = {
        name: {key: round(statistics.median(run[key] for run in of_way), 3) for key in of_way[0]}
        for name, of_way in runs.items()
    }
    print_table(results, rows=["start_s", "rows_per_s"])
    one, several, plain = (results[name]["rows_per_s"] for name in (name_of(1), name_of(args.workers), PLAIN))
    line = {
        "benchmark": "answering",
        "date": date.today().isoformat(),
        "model": Path(args.model).name,
        "rows": args.rows,
        "batch_size": args.batch_size,
        "max_new_tokens": args.max_new_tokens,
        "workers": args.workers,
        "repeats": args.repeats,
        "dtype": args.dtype,
        "device": device_name(default_device()),
        "cores": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "ray")},
        **results,
        "different_answers": sum(found != answers[PLAIN] for found in answers.values()),
        "speedup": round(several / one, 3),
        "overhead": round(1 - one / plain, 3),
    }
    print(json.dumps(line))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flashsloth bench answer", description="What workers gain, and cost.")
    parser.add_argument(
        "--model", metavar="DIR", default=str(SHIPPED_CHECKPOINT), help="model folder (the shipped one)"
    )
    parser.add_argument("--rows", type=int, default=800, help="rows (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows in a batch (%(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="longest answer (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers, compared with one (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way (%(default)s)")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the weights (%(default)s)"
    )
    args = parser.parse_args(argv)
    if min(args.batch_size, args.max_new_tokens, args.workers, args.repeats) < 1:
        parser.error("--batch-size, --max-new-tokens, --workers and --repeats must be 1 or more")
    if args.rows < 2 * args.batch_size:
        parser.error("--rows must be two batches or more")
    return args


if __name__ == "__main__":
    main()
