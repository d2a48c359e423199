# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Answers for others: `flashsloth answer` for a data set, `demo` for browsers, `serve` for programs."""

import argparse
import contextlib
import sys
from pathlib import Path

from flashsloth.cli.argument_types import port, positive, question
from flashsloth.cli.libraries import extra_packages, quiet_libraries
from flashsloth.cli.messages import log, show_messages
from flashsloth.cli.options import DEFAULT_DTYPE, add_command, add_loading_options, add_model_options


LOOPBACK = "127.0.0.1"


def add_answer(commands) -> None:
    answer = add_command(commands, "answer", run_answer, "answer the questions of a whole data set")
    answer.add_argument(
        "questions",
        metavar="QUESTIONS",
        nargs="+",
        help="files of JSON lines or Parquet, a folder of such files or of images, or a data set on the Hub",
    )
    answer.add_argument(
        "--output", metavar="DIR", required=True, help="folder to write; a stopped run continues there"
    )
    answer.add_argument(
        "--format",
        dest="file_format",
        choices=("jsonl", "parquet"),
        default="jsonl",
        help="of the answers (default: jsonl)",
    )
    answer.add_argument("--question", metavar="TEXT", type=question, help="one question for all rows")
    answer.add_argument("--question-column", metavar="NAME", help="column of the questions (default: question)")
    answer.add_argument(
        "--image-column", metavar="NAME", help="column of the images (default: image, images or ...file_name)"
    )
    answer.add_argument("--answer-column", metavar="NAME", default="answer", help="added column (default: answer)")
    answer.add_argument("--error-column", metavar="NAME", default="error", help="added column (default: error)")
    answer.add_argument(
        "--images", metavar="DIR", help="folder that paths of images start from (default: that of the questions)"
    )
    answer.add_argument("--subset", metavar="NAME", help="subset of a data set on the Hub (default: its only one)")
    answer.add_argument("--split", metavar="NAME", help="split of a data set on the Hub (default: its only one)")
    answer.add_argument(
        "--max-new-tokens", metavar="N", type=positive, default=256, help="longest answer in tokens (default: 256)"
    )
    answer.add_argument("--batch-size", metavar="N", type=positive, default=8, help="rows in a batch (default: 8)")
    answer.add_argument(
        "--workers", metavar="N", type=positive, help="models that answer at once (default: one for each GPU, or one)"
    )
    answer.add_argument(
        "--address", metavar="A", help="Ray cluster that this machine is part of: its address, or auto"
    )
    add_model_options(answer, default="the shipped checkpoint", takes_exported=True)


def run_answer(args: argparse.Namespace) -> int:
    with extra_packages("answer", "cluster", needs_torch=False):
        from flashsloth.serve import answer, asking, questions, sources
    from flashsloth.parts import SHIPPED_CHECKPOINT

    show_messages()
    names = ("revision", "dtype", "trust_remote_code", "hd", "max_new_tokens", "backend")
    model = asking.ModelOptions(
        model=str(SHIPPED_CHECKPOINT) if args.model is None else args.model,
        **{name: vars(args)[name] for name in names},
    )
    names = ("file_format", "batch_size", "workers", "address", "answer_column", "error_column")
    options = answer.RunOptions(Path(args.output), **{name: vars(args)[name] for name in names})
    with contextlib.redirect_stdout(sys.stderr), quiet_libraries():
        source = sources.open_source(args.questions, args.subset, args.split)
        images = Path(args.images) if args.images else None
        asked = questions.select_columns(source, args.question_column, args.image_column, args.question, images)
        report = answer.answer_questions(asked, model, options)
    print(options.file)
    if errors := report["counts"]["errors"]:
        first = report["errors"][0]
        log(
            f"{errors} of {report['counts']['rows']} rows have an error in place of an answer; the first is row "
            f"{first['row']}: {first['error']}"
        )
        return 1
    return 0


def add_demo(commands) -> None:
    summary = "serve a demo in the browser: a chat about images, and what the model looked at"
    demo = add_command(commands, "demo", run_demo, summary)
    demo.add_argument(
        "models",
        metavar="M",
        nargs="*",
        help="model folder, or owner/name or owner/name@revision on the Hub; several can be chosen from (default: the "
        "two shipped checkpoints)",
    )
    demo.add_argument("--model", metavar="M", action="append", default=[], help="one more of them")
    add_loading_options(demo)
    demo.add_argument("--host", metavar="H", help=f"address to listen at (default: {LOOPBACK})")
    demo.add_argument(
        "--port", metavar="P", type=port, help="port to listen at (default: the first free from 7860 on)"
    )
    demo.add_argument("--share", action="store_true", help="make a public address too, by Gradio's service")
    demo.add_argument(
        "--space", metavar="DIR", help="write the demo as a Space of the Hub to DIR, and do not serve it"
    )
    demo.add_argument(
        "--static",
        action="store_true",
        help="make it a Space of static files, which runs --model, an exported folder, in its visitors' browsers",
    )


def run_demo(args: argparse.Namespace) -> None:
    args.model += args.models
    _check_demo(args)
    if args.static:
        from flashsloth.serve.static_space import write_static_space

        print(write_static_space(args.space, args.model[0]))
        return
    _check_not_exported(args.model)
    with extra_packages("demo", "demo"):
        from flashsloth.serve import demo, space

    models = args.model or demo.SHIPPED_MODELS
    options = {"dtype": args.dtype, "trust_remote_code": args.trust_remote_code}
    with quiet_libraries():
        if args.space:
            print(space.write_space(args.space, models, **options))
            return
        loaded = demo.load_models(models, **options, on_loading=lambda name: log(f"Loading {name}"))
        demo.run(loaded, host=args.host or LOOPBACK, port=args.port, share=args.share)


def _check_not_exported(models: list[str]) -> None:
    """Raises a `ValueError` if one of the models is an exported one, which this demo does not run."""
    from flashsloth.folders.exported import is_exported

    for model in (model for model in models if is_exported(Path(model))):
        raise ValueError(
            f"{model} is an exported model, which the demo does not run: name the model that it was made from, or "
            f"write a page that runs it (flashsloth demo {model} --space DIR --static)."
        )


def _check_demo(args: argparse.Namespace) -> None:
    """Raises a `ValueError` unless the options belong together."""
    if args.static and not args.space:
        raise ValueError("--static is about --space DIR, which it makes a page of static files: add that.")
    if args.static and len(args.model) != 1:
        raise ValueError("--static needs one model: a folder that `flashsloth export M DIR --format onnx` wrote.")
    given = {"--host": args.host is not None, "--port": args.port is not None, "--share": args.share}
    unused = [name for name, is_given in given.items() if args.space and is_given]
    if unused:
        raise ValueError(f"--space writes a folder and serves nothing: leave out {unused[0]}.")
    given = {"--dtype": args.dtype != DEFAULT_DTYPE, "--trust-remote-code": args.trust_remote_code}
    unused = [name for name, is_given in given.items() if args.static and is_given]
    if unused:
        raise ValueError(f"--static copies an exported folder as it is: leave out {unused[0]}.")


def add_serve(commands) -> None:
    serve = add_command(commands, "serve", run_serve, "answer requests of OpenAI clients over HTTP")
    add_model_options(serve, default="the shipped checkpoint", takes_exported=True)
    serve.add_argument("--model-name", metavar="NAME", help="its name for clients (default: that of M)")
    serve.add_argument(
        "--host", metavar="H", default=LOOPBACK, help="address to listen at; 0.0.0.0 for all networks (%(default)s)"
    )
    serve.add_argument("--port", metavar="P", type=port, default=8000, help="its port; 0 for a free one (%(default)s)")
    serve.add_argument(
        "--api-key", metavar="K", help="key that clients must send (default: the variable FLASHSLOTH_API_KEY, if set)"
    )
    numbers = {
        "--max-batch-size": (16, "answers that are made at once"),
        "--max-waiting": (64, "requests that wait meanwhile; the next one is told to try again"),
        "--max-new-tokens": (1024, "tokens of an answer"),
        "--max-images": (16, "images of a request"),
        "--max-image-pixels": (50_000_000, "pixels of an image"),
        "--max-body-mib": (32, "MiB of a request's body"),
    }
    for option, (default, meaning) in numbers.items():
        serve.add_argument(option, metavar="N", type=positive, default=default, help=f"most {meaning} (%(default)s)")
    serve.add_argument(
        "--allow-image-urls", action="store_true", help="fetch images from http(s) URLs with public addresses"
    )
    serve.add_argument(
        "--allow-private-addresses", action="store_true", help="fetch images from all addresses, this machine's too"
    )


def run_serve(args: argparse.Namespace) -> None:
    with extra_packages("serve", "serve", needs_torch=False):
        from flashsloth.serve import listen, preparation
    from flashsloth.parts import SHIPPED_CHECKPOINT

    if args.allow_private_addresses and not args.allow_image_urls:
        raise ValueError("--allow-private-addresses is about image URLs: add --allow-image-urls, or leave it out.")
    show_messages(form="%(asctime)s %(message)s")  # nothing of what clients send
    limits = preparation.Limits(
        body_bytes=args.max_body_mib << 20,
        images=args.max_images,
        image_pixels=args.max_image_pixels,
        new_tokens=args.max_new_tokens,
        answers=args.max_batch_size,
        waiting=args.max_waiting,
        image_urls=args.allow_image_urls,
        private_addresses=args.allow_private_addresses,
    )
    with quiet_libraries():
        listen.serve(
            str(SHIPPED_CHECKPOINT) if args.model is None else args.model,
            args.host,
            args.port,
            limits,
            max_batch_size=args.max_batch_size,
            hd=args.hd,
            name=args.model_name,
            api_key=args.api_key,
            revision=args.revision,
            backend=args.backend,
            dtype=args.dtype,
            trust_remote_code=args.trust_remote_code,
        )
