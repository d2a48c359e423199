# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth ask` and `flashsloth chat`: questions about images, answered in the terminal."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flashsloth.cli.argument_types import positive, question, share, temperature
from flashsloth.cli.libraries import quiet_libraries
from flashsloth.cli.messages import log
from flashsloth.cli.options import add_command, add_device_option, add_model_options


THREADS = "threads of onnxruntime, up to the number of cores (default: all)"


def add_ask(commands) -> None:
    ask = add_command(commands, "ask", run_ask, "answer a question about any number of images")
    ask.add_argument("question", metavar="QUESTION", type=question)
    ask.add_argument(
        "--image", metavar="FILE_OR_URL", action="append", default=[], help="an image; can be given several times"
    )
    ask.add_argument(
        "--max-new-tokens", metavar="N", type=positive, default=256, help="longest answer in tokens (default: 256)"
    )
    add_model_options(ask, default="the shipped checkpoint", takes_exported=True)
    add_device_option(ask)
    ask.add_argument("--threads", metavar="N", type=positive, help=THREADS)
    ask.add_argument("--json", action="store_true", help="print one JSON object with the answer and its timing")


def run_ask(args: argparse.Namespace) -> None:
    from flashsloth.assistant.questions import read_images

    with quiet_libraries():
        images = read_images(args.image)
        assistant = _load_assistant(args)
        if not images:
            log("No image is given, so the answer is about the text alone; --image FILE adds one")
        start = time.perf_counter()
        with assistant.stream(images, args.question, max_new_tokens=args.max_new_tokens) as stream:
            if not args.json:
                _write_pieces(stream)
            answer = stream.answer
    if args.json:
        shown = ("seconds_to_first_token", "tokens_per_second", "visual_tokens")
        fields = {"answer": answer.text} | {name: getattr(answer, name) for name in shown}
        print(json.dumps(fields, ensure_ascii=False))
    log(
        f"Answered in {time.perf_counter() - start:.2f} seconds: first token after "
        f"{answer.seconds_to_first_token:.2f} seconds, {answer.tokens_per_second:.1f} tokens per second, "
        f"{answer.visual_tokens} visual tokens"
    )


def add_chat(commands) -> None:
    chat = add_command(commands, "chat", run_chat, "hold a conversation about images in the terminal")
    chat.add_argument(
        "--image",
        metavar="FILE_OR_URL",
        action="append",
        default=[],
        help="an image for the first question; can be given several times",
    )
    chat.add_argument("--system", metavar="TEXT", help="system prompt in place of the published one")
    chat.add_argument(
        "--max-new-tokens", metavar="N", type=positive, default=256, help="longest answer in tokens (default: 256)"
    )
    chat.add_argument(
        "--temperature", metavar="T", type=temperature, help="sample, from logits divided by T (default: do not)"
    )
    chat.add_argument(
        "--top-p", metavar="P", type=share, help="sample, from the likeliest tokens of total probability P"
    )
    chat.add_argument(
        "--history",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep typed lines for the next time, in $XDG_STATE_HOME/flashsloth/chat_history (default: yes)",
    )
    add_model_options(chat, default="the shipped checkpoint", takes_exported=True)
    add_device_option(chat)
    chat.add_argument("--threads", metavar="N", type=positive, help=THREADS)


def run_chat(args: argparse.Namespace) -> None:
    from flashsloth.assistant.questions import read_images
    from flashsloth.serve.terminal import TerminalChat
    from flashsloth.serve.terminal_lines import history_file

    options = {"max_new_tokens": args.max_new_tokens}
    sampling = {name: vars(args)[name] for name in ("temperature", "top_p") if vars(args)[name] is not None}
    options |= {"do_sample": True, **sampling} if sampling else {}
    with quiet_libraries():
        images = list(zip(args.image, read_images(args.image), strict=True))
        assistant = _load_assistant(args)
        logging.getLogger(type(assistant.processor).__module__).setLevel(logging.ERROR)  # the chat says it itself
        folder = assistant.backend.folder
        has_seen_tiles = assistant.processor.image_processor.hd or _has_seen_tiles(folder)
        name = Path(folder).name if args.model is None or Path(args.model).is_dir() else args.model
        history = history_file() if args.history else None
        TerminalChat(assistant.chat(system=args.system), name, history, options, has_seen_tiles).run(images)


def _load_assistant(args: argparse.Namespace):
    """The model of a command's options; says what it is, and where high definition does not suit it."""
    start = time.perf_counter()
    from flashsloth import load
    from flashsloth.parts import SHIPPED_CHECKPOINT

    model_id = str(SHIPPED_CHECKPOINT) if args.model is None else args.model
    log(f"Loading {model_id}")
    options = {name: vars(args)[name] for name in ("backend", "hd", "dtype", "device", "threads", "trust_remote_code")}
    assistant = load(model_id, args.revision, **options)
    processor = assistant.processor
    log(f"Loaded onto {assistant.backend.describe()}, after {time.perf_counter() - start:.1f} s")
    if args.hd and not processor.image_processor.hd and not _has_seen_tiles(assistant.backend.folder):
        logging.getLogger(type(processor).__module__).setLevel(logging.ERROR)  # it would say the same
        log("Warning: this checkpoint was trained without high definition, and may answer wrongly: leave out --hd")
    return assistant


def _write_pieces(pieces: Iterator[str]) -> None:
    """Writes an answer while it is made, below a line on standard error."""
    for index, piece in enumerate(pieces):
        if index == 0:
            sys.stderr.write("Answer:\n")
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)


def _has_seen_tiles(folder: str) -> bool:
    """Whether a model folder's provenance names a training run with high definition."""
    from flashsloth.folders.provenance import read_provenance

    return any(entry.get("hd") is True for entry in read_provenance(folder))
