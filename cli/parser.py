# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""All commands in one parser, and which of the words given are wrong."""

import argparse
import sys
from pathlib import Path

from flashsloth.arguments import OneLineParser
from flashsloth.cli.asking import add_ask, add_chat
from flashsloth.cli.evaluation import add_bench, add_eval
from flashsloth.cli.making import add_compose, add_convert, add_export, add_quantize
from flashsloth.cli.messages import PROG
from flashsloth.cli.publishing import add_push
from flashsloth.cli.serving import add_answer, add_demo, add_serve
from flashsloth.cli.training import add_data, add_merge, add_train


def _version() -> str:
    from flashsloth import __version__

    return __version__


def build_parser() -> OneLineParser:
    """The parser of all commands."""
    parser = OneLineParser(prog=PROG, description="FlashSloth: small, fast vision-language models.")
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("--traceback", action="store_true", help="print the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_ask(commands)
    add_chat(commands)
    add_convert(commands)
    add_compose(commands)
    add_quantize(commands)
    add_export(commands)
    add_train(commands)
    add_merge(commands)
    add_data(commands)
    add_eval(commands)
    add_answer(commands)
    add_push(commands)
    add_demo(commands)
    add_serve(commands)
    add_bench(commands)
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the words of a command; those of the process if `argv` is `None`. Wrong ones end it with status 2."""
    args, unknown = build_parser().parse_known_args(argv)
    command = OneLineParser(prog=args.prog)
    for word in sys.argv[1:] if argv is None else argv:
        if not _is_text(word):
            command.error(f"the argument {word!r} is not valid UTF-8: rename the file, or correct the word")
    if "overrides" in args:
        # argparse fills a list from one place only: words after an option, as in `--plan key=value`, are left over.
        args.overrides += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    if args.command == "bench":
        args.arguments = unknown  # each benchmark has a parser of its own
    elif args.command == "ask" and (image := _image_among([args.question, *unknown])):
        command.error(
            f"{image!r} is an image, not a question: ask --image {image} QUESTION, and --image for each other one"
        )
    elif unknown:
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _is_text(word: str) -> bool:
    """Whether an argument can be encoded; bytes that are not UTF-8 reach Python as lone surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _image_among(words: list[str]) -> str | None:
    """The first of the words that is the name of an image file."""
    from flashsloth.folders.downloads import IMAGE_SUFFIXES

    images = (word for word in words if Path(word).suffix.lower() in IMAGE_SUFFIXES)
    return next((word for word in images if " " not in word or Path(word).is_file()), None)
