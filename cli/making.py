# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Commands that write a new model folder: `flashsloth convert`, `compose`, `quantize` and `export`."""

import argparse
import contextlib
import sys

from flashsloth.cli.argument_types import positive
from flashsloth.cli.libraries import extra_packages
from flashsloth.cli.messages import show_messages
from flashsloth.cli.options import SOURCE, add_command


# The options of `compose`: arguments of its function by the same names, which has the defaults.
COMPOSE_OPTIONS = {
    "tokenizer": {"metavar": SOURCE, "help": "tokenizer, if the language model has none"},
    "dtype": {"help": "float32, bfloat16 or float16 (default: the language model's dtype)"},
    "seed": {"metavar": "N", "type": int, "help": "seed of the new weights (default: 0)"},
    "hd": {"action": argparse.BooleanOptionalAction, "help": "use high definition by default (default: no)"},
    "pooling_mode": {"help": "attention, average or none (default: attention)"},
    "pooling_size": {"metavar": "N", "type": int, "help": "patches along a side of a pooled region (default: 3)"},
    "num_query_tokens": {
        "metavar": "N",
        "type": int,
        "help": "query tokens after a question, 0 for none (default: 9)",
    },
    "query_layer": {
        "metavar": "N",
        "type": int,
        "help": "decoder layer before which query tokens attend to the patches (default: 7)",
    },
    "query_hidden_size": {
        "metavar": "N",
        "type": int,
        "help": "width of that attention (default: half the vision tower's width)",
    },
    "query_num_heads": {
        "metavar": "N",
        "type": int,
        "help": "heads of that attention (default: as many as the decoder's)",
    },
    "query_base_token_id": {
        "metavar": "N",
        "type": int,
        "help": "token whose embedding is added to each query token (default: the token ' .')",
    },
    "vision_feature_layer": {
        "metavar": "N",
        "type": int,
        "help": "vision layer whose output is used, counted from the end (default: -2, the last but one)",
    },
    "max_shard_size": {"metavar": "SIZE", "help": "largest size of a weight file (default: 5GB)"},
}


def add_convert(commands) -> None:
    summary = "convert a checkpoint from the published layout to this library's, or back"
    convert = add_command(commands, "convert", run_convert, summary)
    convert.add_argument(
        "src",
        metavar="SRC",
        help="the checkpoint: a folder or REPO[@REVISION] on the Hub; with --to-original a folder",
    )
    convert.add_argument("dst", metavar="DST", help="folder to write")
    convert.add_argument(
        "--tokenizer", metavar=SOURCE, help="Phi-2's tokenizer, if SRC has none: microsoft/phi-2, or a folder with it"
    )
    convert.add_argument(
        "--vision-config", metavar="FILE", help="JSON file with the sizes of a vision tower other than so400m"
    )
    convert.add_argument("--to-original", action="store_true", help="convert to the published layout")


def run_convert(args: argparse.Namespace) -> None:
    from flashsloth import convert

    if not args.to_original:
        convert.convert_checkpoint(args.src, args.dst, tokenizer=args.tokenizer, vision_config=args.vision_config)
    elif args.tokenizer or args.vision_config:
        raise ValueError("--to-original takes neither --tokenizer nor --vision-config: leave them out.")
    else:
        convert.to_original(args.src, args.dst)
    print(args.dst)


def add_compose(commands) -> None:
    summary = "make a new, untrained FlashSloth from a causal language model and a SigLIP"
    compose = add_command(commands, "compose", run_compose, summary)
    compose.add_argument(
        "--language-model",
        metavar=SOURCE,
        help="causal language model (default: microsoft/phi-2 at a fixed commit)",
    )
    compose.add_argument(
        "--vision-model",
        metavar=SOURCE,
        help="SigLIP (default: google/siglip-so400m-patch14-384 at a fixed commit)",
    )
    compose.add_argument("dst", metavar="DST", help="folder to write")
    for name, options in COMPOSE_OPTIONS.items():
        compose.add_argument(f"--{name.replace('_', '-')}", **options)


def run_compose(args: argparse.Namespace) -> None:
    from flashsloth.convert import composition

    options = {name: vars(args)[name] for name in COMPOSE_OPTIONS if vars(args)[name] is not None}
    composition.compose(
        composition.LANGUAGE_MODEL if args.language_model is None else args.language_model,
        composition.VISION_MODEL if args.vision_model is None else args.vision_model,
        args.dst,
        **options,
    )
    print(args.dst)


def add_quantize(commands) -> None:
    summary = "quantize a model's decoder to 8 or 4 bits per weight, for GPUs; for CPUs, export the model"
    quantize = add_command(commands, "quantize", run_quantize, summary)
    quantize.add_argument("src", metavar="SRC", help="the model: a folder, or REPO[@REVISION] on the Hub")
    quantize.add_argument("dst", metavar="DST", help="folder to write")
    quantize.add_argument(
        "--weights",
        choices=["int8", "int4"],
        required=True,
        help="dtype of the decoder's weights; int4 needs an NVIDIA GPU with mslk to run",
    )
    quantize.add_argument(
        "--group-size",
        metavar="N",
        type=positive,
        help="weights that share a scale, for int4 (default: the largest that fits)",
    )


def run_quantize(args: argparse.Namespace) -> None:
    with extra_packages("quantize", "quantize"):
        from flashsloth.convert.quantization import quantize

    with contextlib.redirect_stdout(sys.stderr):
        quantize(args.src, args.dst, args.weights, group_size=args.group_size)
    print(args.dst)


def add_export(commands) -> None:
    export = add_command(commands, "export", run_export, "write a model for CPUs, browsers and phones")
    export.add_argument("src", metavar="SRC", help="the model: a folder, or REPO[@REVISION] on the Hub")
    export.add_argument("dst", metavar="DST", help="folder to write")
    export.add_argument(
        "--format",
        choices=["onnx", "executorch"],
        required=True,
        help="onnx: for onnxruntime, on small machines and in browsers; executorch: for apps on phones",
    )
    export.add_argument(
        "--weights",
        choices=["float32", "float16", "int8", "int4"],
        action="append",
        help="dtype of the weights; may be repeated, and the first is the default of whoever loads the folder "
        "(default: float32); executorch: float32 or int8, once",
    )
    export.add_argument(
        "--max-length",
        metavar="N",
        type=positive,
        help="executorch: positions of a conversation that memory is reserved for (default: the decoder's limit)",
    )
    export.add_argument(
        "--max-views",
        metavar="N",
        type=positive,
        help="executorch: views of all images of a conversation (default: those of one image in high resolution)",
    )


def run_export(args: argparse.Namespace) -> None:
    if args.format == "executorch":
        _export_executorch(args)
    elif args.max_length or args.max_views:
        raise ValueError(
            "--max-length and --max-views belong to --format executorch: onnx takes prompts of any length"
        )
    else:
        with extra_packages("export", "export"):
            from flashsloth.export.onnx import export_onnx

        with contextlib.redirect_stdout(sys.stderr):
            export_onnx(args.src, args.dst, args.weights or ["float32"])
    print(args.dst)


def _export_executorch(args: argparse.Namespace) -> None:
    from flashsloth.folders.exported import program_weights

    weights = program_weights(args.weights or ["float32"])
    with extra_packages("export --format executorch", "executorch"):
        from flashsloth.export.executorch import export_executorch

    show_messages()
    with contextlib.redirect_stdout(sys.stderr):
        export_executorch(args.src, args.dst, weights, args.max_length, args.max_views)
