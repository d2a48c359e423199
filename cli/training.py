# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Training: `flashsloth train` and `merge`, and `flashsloth data` for what is trained on."""

import argparse
import contextlib
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from flashsloth.cli.argument_types import positive
from flashsloth.cli.libraries import extra_packages
from flashsloth.cli.messages import show_messages
from flashsloth.cli.options import add_command


# A machine without the run's GPUs may plan a run and validate its data; settings such as bf16 are refused there.
ANYWHERE = ("use_cpu=true", "tf32=null")


def add_train(commands) -> None:
    train = add_command(commands, "train", run_train, "run one training stage")
    train.add_argument("config", metavar="CONFIG.yaml", help="the stage; train/configs has examples")
    train.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes a value of the file, also a nested one (lora.r=8)"
    )
    train.add_argument("--plan", action="store_true", help="print what the run would cost, and do not train")
    train.add_argument("--devices", metavar="N", type=positive, help="with --plan: devices to plan for (default: 1)")


def run_train(args: argparse.Namespace) -> None:
    if args.devices and not args.plan:
        raise ValueError("--devices belongs to --plan; a run's devices are those that torchrun or accelerate starts")
    with extra_packages("train", "train"):
        from flashsloth.train import config, plan, sft

    if args.plan:
        num_devices = args.devices or config.launched_processes()
        stage = config.read_config(Path(args.config), [*args.overrides, *ANYWHERE], num_devices)
        with contextlib.redirect_stdout(sys.stderr):
            text = plan.describe(stage, num_devices)
        print(text)
        return
    show_messages(of_others=logging.INFO)
    stage = config.read_config(Path(args.config), args.overrides)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            folder = sft.train_stage(stage)
        except ImportError as error:  # of an optimizer, a kernel, a logger
            raise ValueError(f"a setting needs a package that is not installed: {error}") from error
    print(folder)


def add_merge(commands) -> None:
    merge = add_command(
        commands, "merge", run_merge, "merge an adapter and its base model into a complete model folder"
    )
    merge.add_argument("adapter", metavar="ADAPTER", help="adapter folder that a run with `lora` wrote")
    merge.add_argument("dst", metavar="DST", help="folder to write")
    merge.add_argument("--base", metavar="M", help="the adapter's base model (default: as the adapter says)")


def run_merge(args: argparse.Namespace) -> None:
    with extra_packages("merge", "train"):
        from flashsloth.train import lora

    with contextlib.redirect_stdout(sys.stderr):
        lora.merge(args.adapter, args.dst, args.base)
    print(args.dst)


def add_data(commands) -> None:
    data = commands.add_parser(
        "data", help="validate and prepare training data", description="Validate and prepare training data."
    )
    commands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    check = add_command(commands, "check", run_data_check, "read all data of a stage and list the broken rows")
    check.add_argument("config", metavar="CONFIG.yaml", help="the stage")
    check.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes a value of the file, also a nested one (lora.r=8)"
    )
    check.add_argument("--jsonl", metavar="FILE", help="write the broken rows to a file, one JSON object per line")
    summary = "compare a folder of images with the annotation file that names them"
    prepare = add_command(commands, "prepare", run_data_prepare, summary)
    prepare.add_argument("annotations", metavar="ANNOTATIONS", help="such as llava_v1_5_mix665k.json")
    prepare.add_argument("images", metavar="DIR", help="folder that the paths of the images start from")
    prepare.add_argument(
        "--fix", action="store_true", help="rename and re-encode what is only misnamed; no file is overwritten"
    )
    prepare.add_argument("--jsonl", metavar="FILE", help="write what was found to a file, one JSON object per line")
    prepare.add_argument("--threads", metavar="N", type=positive, help="images read at once (default: cores + 4)")


def run_data_check(args: argparse.Namespace) -> None:
    with extra_packages("data check", "train"):
        from flashsloth.train import config, sft
        from flashsloth.train.data.broken_rows import report, write_jsonl

    show_messages(of_others=logging.INFO)
    stage = config.read_config(Path(args.config), [*args.overrides, *ANYWHERE])
    with contextlib.redirect_stdout(sys.stderr):
        broken_rows = sft.validate_data(stage)
    print(report(broken_rows))
    if args.jsonl:
        write_jsonl(broken_rows, args.jsonl)
    if broken_rows:
        raise ValueError(
            f"{len(broken_rows)} of the rows are broken: repair them, or train without them by on_broken_rows=skip"
        )


def run_data_prepare(args: argparse.Namespace) -> None:
    with extra_packages("data prepare", "train"):
        from flashsloth.train.data import prepare
        from flashsloth.train.data.broken_rows import write_lines

    show_messages(of_others=logging.INFO)
    with contextlib.redirect_stdout(sys.stderr):
        images, findings = prepare.prepare(args.annotations, args.images, args.fix, args.threads)
    print(prepare.report(images, findings))
    if args.jsonl:
        write_lines(map(asdict, findings), Path(args.jsonl))
    prepare.check_complete(images, findings, args.fix)
