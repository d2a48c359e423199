# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""How good a model is and how fast: `flashsloth eval` and `flashsloth bench`."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from flashsloth.cli.argument_types import positive
from flashsloth.cli.libraries import extra_packages
from flashsloth.cli.messages import PROG
from flashsloth.cli.options import add_command, add_model_options


EVAL_TASKS = ("gqa", "mmbench", "mme", "pope", "textvqa")
# The extra packages that a benchmark needs; `train` has those of the generated set.
BENCH_EXTRAS = {
    "export": "export",
    "train": "train",
    "quantize": "quantize",
    "eval": "train",
    "answer": "train,cluster",
    "serve": "train,serve",
}


def add_eval(commands) -> None:
    summary = "ask a model the questions of a benchmark by the LLaVA-1.5 protocol, and score its answers"
    evaluation = add_command(commands, "eval", run_eval, summary)
    evaluation.add_argument("--task", choices=EVAL_TASKS, help="the benchmark")
    evaluation.add_argument("--questions", metavar="FILE", nargs="+", help="its published question files")
    evaluation.add_argument("--labels", metavar="FILE_OR_DIR", help="its published labels; without them, no scores")
    evaluation.add_argument("--images", metavar="DIR", help="folder of the images (default: that of the questions)")
    evaluation.add_argument("--output", metavar="DIR", help="folder to write; a stopped run continues there")
    add_model_options(evaluation, default="none", takes_exported=True)
    evaluation.add_argument("--answers", metavar="FILE", help="score these answers in place of a model's")
    evaluation.add_argument("--batch-size", metavar="N", type=positive, default=8, help="questions in a batch (8)")
    evaluation.add_argument(
        "--write", action="store_true", help="put the scores into the model folder's evaluation.json, for its card"
    )
    evaluation.add_argument(
        "--compare", metavar=("A", "B"), nargs=2, help="say whether two reports differ, on the same questions"
    )


def run_eval(args: argparse.Namespace) -> None:
    _check_eval(args)
    with extra_packages("eval --task mmbench", "mmbench", needs_torch=False):
        from flashsloth.eval import compare, report, run

        if args.compare:
            comparison = compare.compare(run.BENCHMARKS, *map(Path, args.compare))
            print(compare.markdown(comparison))
            print(json.dumps(comparison))
            return
        labels, images = (Path(name) if name else None for name in (args.labels, args.images))
        task = run.read_task(args.task, list(map(Path, args.questions)), labels, images)
    output = Path(args.output)
    if args.answers:
        result = run.score_answers(task, Path(args.answers), output)
    else:
        names = ("model", "revision", "dtype", "trust_remote_code", "hd", "batch_size", "write", "backend")
        options = run.ModelOptions(**{name: vars(args)[name] for name in names})
        with contextlib.redirect_stdout(sys.stderr):
            result = run.ask_model(task, options, output)
    if result is None:  # the first process reports
        return
    if result["scores"]:
        print(report.markdown(result))
    print(json.dumps({name: result[name] for name in ("task", "questions", "scores")}))


def _check_eval(args: argparse.Namespace) -> None:
    """Raises a `ValueError` unless the options belong together."""
    needed = [name for name in ("task", "questions", "output") if not vars(args)[name]]
    if args.compare:
        others = [name for name in ("task", "questions", "output", "labels", "model", "answers") if vars(args)[name]]
        if others:
            raise ValueError(f"--compare takes two reports and nothing else: leave out --{others[0]}")
    elif needed:
        raise ValueError(f"eval needs --{needed[0]} (see {PROG} eval --help)")
    elif bool(args.model) == bool(args.answers):
        raise ValueError("eval needs either --model, which is asked, or --answers, which are scored")
    elif args.write and args.answers:
        raise ValueError("--write needs --model: nothing says which model gave these --answers")


def add_bench(commands) -> None:
    bench = commands.add_parser("bench", add_help=False, help="measure speed and memory (see flashsloth bench --help)")
    bench.set_defaults(run=run_bench, prog=bench.prog)


def run_bench(args: argparse.Namespace) -> None:
    from flashsloth import bench

    name = args.arguments[0] if args.arguments else ""
    extra = BENCH_EXTRAS.get(name)
    with extra_packages(f"bench {name}", extra) if extra else contextlib.nullcontext():
        bench.main(args.arguments)
