# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The parser of a command, and the options that several commands have."""

import argparse

from flashsloth.arguments import OneLineParser


SOURCE = "REPO_OR_DIR[@REVISION]"
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_DTYPE = "fast"
EXPORTED_DTYPES = ("int8", "int4")  # of exported models, beside float32 and float16


def add_command(commands, name: str, run, summary: str) -> OneLineParser:
    """Adds a command, whose arguments are given to `run`."""
    command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    command.set_defaults(run=run, prog=command.prog)
    return command


def add_model_options(command: argparse.ArgumentParser, default: str, takes_exported: bool = False) -> None:
    """Adds the options that say which model a command uses, and how; `default` is what the help calls its default."""
    command.add_argument("--model", metavar="M", help=f"model folder, or owner/name on the Hub (default: {default})")
    command.add_argument(
        "--revision", metavar="R", help="commit, branch or tag of the model on the Hub (default: its main branch)"
    )
    command.add_argument(
        "--hd",
        action=argparse.BooleanOptionalAction,
        help="process images in high definition, or not (default: as the checkpoint says)",
    )
    add_loading_options(command, takes_exported)


def add_loading_options(command: argparse.ArgumentParser, takes_exported: bool = False) -> None:
    command.add_argument(
        "--dtype",
        choices=(*DTYPES, *EXPORTED_DTYPES) if takes_exported else DTYPES,
        default=DEFAULT_DTYPE,
        help="dtype of the weights; auto is the checkpoint's own (default: auto, but float32 instead of bfloat16 on a "
        "CPU without bfloat16 instructions: twice the memory, many times the speed)"
        + ("; of an exported model, one of those that it holds (default: its first)" if takes_exported else ""),
    )
    if takes_exported:
        command.add_argument(
            "--backend",
            choices=("torch", "onnxruntime"),
            default="torch",
            help="what computes; onnxruntime runs what `flashsloth export` wrote (default: torch)",
        )
    command.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the code in the model's folder or Hub repository in place of this package's; without this option no "
        "such code is run",
    )


def add_device_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", metavar="D", help="device that computes, such as cpu or cuda:1 (default: the GPU, if there is one)"
    )
