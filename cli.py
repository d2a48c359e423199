# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The `flashsloth` command. Results go to standard output, everything else to standard error.

Exit status: 0 done, 2 bad input (one line names it and the remedy), 1 any other failure, and as the shell has it 130
interrupted, 143 terminated, 129 hung up, 141 if nobody reads the output.
Each command imports what it needs when it runs, so that `flashsloth --help` does not wait for torch. Output that
libraries write to standard output (the trainer's losses, DeepSpeed's greeting) is redirected to standard error.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from flashsloth.arguments import OneLineParser, without_secrets


# Errors that the user's input causes. FileExistsError: the destination exists already.
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)

PROG = "flashsloth"
SOURCE = "REPO_OR_DIR[@REVISION]"
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

# A machine without the run's GPUs may plan a run and validate its data; settings such as bf16 are refused there.
ANYWHERE = ("use_cpu=true", "tf32=null")

DTYPES = ("auto", "float32", "bfloat16", "float16")
EXPORTED_DTYPES = ("int8", "int4")  # of exported models, beside float32 and float16

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


# The options of `push` that a Space has no use for.
OPTIONS_OF_CARDS = ("card", "license", "language", "dataset", "base_model", "example", "keep_card")
MAX_PORT = 65535

# Signals that end a command as an interruption does, after it has tidied up. The last is not on all systems.
STOP_SIGNALS = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
SIGNALLED = 128  # is added to a signal's number for an exit status
BROKEN_PIPE = 141  # exit status where nobody reads the output

# Loggers of libraries whose notices are about kernels for other machines.
NOISY = ("torchao", "torch.utils._pytree", "bitsandbytes")


class Stopped(BaseException):
    """
    A signal to stop.

    Args:
        signal_number (`int`): The signal.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


def run_ask(args: argparse.Namespace) -> None:
    from flashsloth.assistant.questions import read_images

    with _quiet_libraries():
        images = read_images(args.image)
        assistant = _load_assistant(args)
        if not images:
            _log("No image is given, so the answer is about the text alone; --image FILE adds one")
        start = time.perf_counter()
        with assistant.stream(images, args.question, max_new_tokens=args.max_new_tokens) as stream:
            if not args.json:
                _write_pieces(stream)
            answer = stream.answer
    if args.json:
        shown = ("seconds_to_first_token", "tokens_per_second", "visual_tokens")
        fields = {"answer": answer.text} | {name: getattr(answer, name) for name in shown}
        print(json.dumps(fields, ensure_ascii=False))
    _log(
        f"Answered in {time.perf_counter() - start:.2f} seconds: first token after "
        f"{answer.seconds_to_first_token:.2f} seconds, {answer.tokens_per_second:.1f} tokens per second, "
        f"{answer.visual_tokens} visual tokens"
    )


def run_chat(args: argparse.Namespace) -> None:
    from flashsloth.assistant.questions import read_images
    from flashsloth.serve.terminal import TerminalChat
    from flashsloth.serve.terminal_lines import history_file

    options = {"max_new_tokens": args.max_new_tokens}
    sampling = {name: vars(args)[name] for name in ("temperature", "top_p") if vars(args)[name] is not None}
    options |= {"do_sample": True, **sampling} if sampling else {}
    with _quiet_libraries():
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
    _log(f"Loading {model_id}")
    options = {name: vars(args)[name] for name in ("backend", "hd", "dtype", "device", "threads", "trust_remote_code")}
    assistant = load(model_id, args.revision, **options)
    processor = assistant.processor
    _log(f"Loaded onto {assistant.backend.describe()}, after {time.perf_counter() - start:.1f} s")
    if args.hd and not processor.image_processor.hd and not _has_seen_tiles(assistant.backend.folder):
        logging.getLogger(type(processor).__module__).setLevel(logging.ERROR)  # it would say the same
        _log("Warning: this checkpoint was trained without high definition, and may answer wrongly: leave out --hd")
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


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps notices of libraries from between the words of an answer, and progress bars out of files and pipes."""
    from transformers.utils import logging as transformers_logging

    from flashsloth.folders.new_folder import quiet_transformers

    had_bars = transformers_logging.is_progress_bar_enabled()
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not sys.stderr.isatty():
            transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            if had_bars:
                transformers_logging.enable_progress_bar()


def run_convert(args: argparse.Namespace) -> None:
    from flashsloth import convert

    if not args.to_original:
        convert.convert_checkpoint(args.src, args.dst, tokenizer=args.tokenizer, vision_config=args.vision_config)
    elif args.tokenizer or args.vision_config:
        raise ValueError("--to-original takes neither --tokenizer nor --vision-config: leave them out.")
    else:
        convert.to_original(args.src, args.dst)
    print(args.dst)


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


def run_quantize(args: argparse.Namespace) -> None:
    with _extra_packages("quantize", "quantize"):
        from flashsloth.convert.quantization import quantize

    with contextlib.redirect_stdout(sys.stderr):
        quantize(args.src, args.dst, args.weights, group_size=args.group_size)
    print(args.dst)


def run_export(args: argparse.Namespace) -> None:
    if args.format != "onnx":
        raise ValueError(f"--format {args.format} is not there yet: take onnx")
    with _extra_packages("export", "export"):
        from flashsloth.export.onnx import export_onnx

    with contextlib.redirect_stdout(sys.stderr):
        export_onnx(args.src, args.dst, args.weights or ["float32"])
    print(args.dst)


def run_train(args: argparse.Namespace) -> None:
    if args.devices and not args.plan:
        raise ValueError("--devices belongs to --plan; a run's devices are those that torchrun or accelerate starts")
    with _extra_packages("train", "train"):
        from flashsloth.train import config, plan, sft

    if args.plan:
        num_devices = args.devices or config.launched_processes()
        stage = config.read_config(Path(args.config), [*args.overrides, *ANYWHERE], num_devices)
        with contextlib.redirect_stdout(sys.stderr):
            text = plan.describe(stage, num_devices)
        print(text)
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    stage = config.read_config(Path(args.config), args.overrides)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            folder = sft.train_stage(stage)
        except ImportError as error:  # of an optimizer, a kernel, a logger
            raise ValueError(f"a setting needs a package that is not installed: {error}") from error
    print(folder)


def run_merge(args: argparse.Namespace) -> None:
    with _extra_packages("merge", "train"):
        from flashsloth.train import lora

    with contextlib.redirect_stdout(sys.stderr):
        lora.merge(args.adapter, args.dst, args.base)
    print(args.dst)


def run_data_check(args: argparse.Namespace) -> None:
    with _extra_packages("data check", "train"):
        from flashsloth.train import config, sft
        from flashsloth.train.data.broken_rows import report, write_jsonl

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
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


def run_eval(args: argparse.Namespace) -> None:
    _check_eval(args)
    with _extra_packages("eval --task mmbench", "eval"):
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


def run_answer(args: argparse.Namespace) -> int:
    with _extra_packages("answer", "cluster"):
        from flashsloth.serve import answer, asking, questions, sources
    from flashsloth.loading import SHIPPED_CHECKPOINT

    # Messages of this package alone: the HTTP client would report each request.
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("flashsloth").setLevel(logging.INFO)
    names = ("revision", "dtype", "trust_remote_code", "hd", "max_new_tokens", "backend")
    model = asking.ModelOptions(
        model=str(SHIPPED_CHECKPOINT) if args.model is None else args.model,
        **{name: vars(args)[name] for name in names},
    )
    names = ("file_format", "batch_size", "workers", "address", "answer_column", "error_column")
    options = answer.RunOptions(Path(args.output), **{name: vars(args)[name] for name in names})
    with contextlib.redirect_stdout(sys.stderr), _quiet_libraries():
        source = sources.open_source(args.questions, args.subset, args.split)
        images = Path(args.images) if args.images else None
        asked = questions.select_columns(source, args.question_column, args.image_column, args.question, images)
        report = answer.answer_questions(asked, model, options)
    print(options.file)
    if errors := report["counts"]["errors"]:
        first = report["errors"][0]
        _log(
            f"{errors} of {report['counts']['rows']} rows have an error in place of an answer; the first is row "
            f"{first['row']}: {first['error']}"
        )
        return 1
    return 0


def run_data_prepare(args: argparse.Namespace) -> None:
    with _extra_packages("data prepare", "train"):
        from flashsloth.train.data import prepare
        from flashsloth.train.data.broken_rows import write_lines

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        images, findings = prepare.prepare(args.annotations, args.images, args.fix, args.threads)
    print(prepare.report(images, findings))
    if args.jsonl:
        write_lines(map(asdict, findings), Path(args.jsonl))
    prepare.check_complete(images, findings, args.fix)


def run_push(args: argparse.Namespace) -> None:
    from flashsloth.publish import hub
    from flashsloth.publish.card import read_example

    # Messages of this package alone: the HTTP client would report each request.
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("flashsloth").setLevel(logging.INFO)
    if args.space:
        _push_space(args)
        return
    options = {
        "keep_card": args.keep_card,
        "license": args.license,
        "languages": args.language,
        "datasets": args.dataset,
        "base_models": args.base_model,
        "example": read_example(*args.example) if args.example else None,
    }
    if args.card and not args.dry_run:
        raise ValueError("--card writes the model card of a --dry-run: add --dry-run, or leave --card out.")
    if args.dry_run:
        with contextlib.redirect_stdout(sys.stderr):
            sizes = hub.preview(args.folder, args.repo_id, args.card, **options)
        _print_sizes(sizes)
        return
    with contextlib.redirect_stdout(sys.stderr):
        url = hub.push(
            args.folder,
            args.repo_id,
            private=args.private,
            revision=args.revision,
            create_pr=args.create_pr,
            message=args.message or hub.MESSAGE,
            **options,
        )
    print(url)


def _push_space(args: argparse.Namespace) -> None:
    from flashsloth.publish import space

    for name in OPTIONS_OF_CARDS:
        if vars(args)[name]:
            raise ValueError(f"--{name.replace('_', '-')} is for the card of a model: leave it out with --space.")
    if args.dry_run:
        _print_sizes(space.preview_space(args.folder, args.repo_id))
        return
    target = {name: vars(args)[name] for name in ("private", "revision", "create_pr")}
    with contextlib.redirect_stdout(sys.stderr):
        url = space.push_space(args.folder, args.repo_id, **target, message=args.message or space.MESSAGE)
    print(url)


def _print_sizes(sizes: dict[str, int]) -> None:
    for name, size in [*sorted(sizes.items()), (f"{len(sizes)} files", sum(sizes.values()))]:
        print(f"{size:>15,}  {name}")


def run_demo(args: argparse.Namespace) -> None:
    if args.static:
        _write_static_space(args)
        return
    with _extra_packages("demo", "demo"):
        from flashsloth.serve import demo, space

    models = args.model or demo.SHIPPED_MODELS
    options = {"dtype": args.dtype, "trust_remote_code": args.trust_remote_code}
    with _quiet_libraries():
        if args.space:
            print(space.write_space(args.space, models, **options))
            return
        loaded = demo.load_models(models, **options, on_loading=lambda name: _log(f"Loading {name}"))
        demo.run(loaded, host=args.host, port=args.port, share=args.share)


def _write_static_space(args: argparse.Namespace) -> None:
    from flashsloth.serve.static_space import write_static_space

    if not args.space:
        raise ValueError("--static is about --space DIR, which it makes a page of static files: add that.")
    if len(args.model or []) != 1:
        raise ValueError("--static needs one --model: a folder that `flashsloth export M DIR --format onnx` wrote.")
    print(write_static_space(args.space, args.model[0]))


def run_serve(args: argparse.Namespace) -> None:
    with _extra_packages("serve", "serve"):
        from flashsloth.serve import listen, preparation
    from flashsloth.parts import SHIPPED_CHECKPOINT

    if args.allow_private_addresses and not args.allow_image_urls:
        raise ValueError("--allow-private-addresses is about image URLs: add --allow-image-urls, or leave it out.")
    # Messages of this package, and faults within the server; nothing of what clients send.
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("flashsloth").setLevel(logging.INFO)
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
    with _quiet_libraries():
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


def run_bench(args: argparse.Namespace) -> None:
    from flashsloth import bench

    name = args.arguments[0] if args.arguments else ""
    extra = BENCH_EXTRAS.get(name)
    with _extra_packages(f"bench {name}", extra) if extra else contextlib.nullcontext():
        bench.main(args.arguments)


def main(argv: list[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`list[str]`, *optional*): The arguments after the program's name; those of the process if unset.

    Returns:
        `int`: The exit status.
    """
    _prepare_streams()
    status = 0
    try:
        try:
            status = _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        _discard_output()
        if status == 0:  # else the same error is reported already
            _log(f"{PROG}: error: the output cannot be written: {_describe(error)}")
        return 1
    return status


def _run(argv: list[str] | None) -> int:
    """Parses and runs one command, and returns its exit status."""
    # transformers imports these libraries if they are installed
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    args = _parse(argv)
    try:
        with _stop_signals():
            status = args.run(args)  # where a command is done, but not all is well
    except KeyboardInterrupt:
        _log("Interrupted.")
        return SIGNALLED + signal.SIGINT
    except Stopped as stopped:
        _log("Terminated.")
        return SIGNALLED + stopped.signal_number
    except BrokenPipeError:
        raise
    except USER_ERRORS as error:
        return _report(error, args, status=2)
    except OSError as error:  # of the machine, not of the input: a full disk, a lost connection
        return _report(error, args, status=1)
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, or Python's
            return _report(MemoryError(f"there is not enough memory: {error}"), args, status=1)
        traceback.print_exc()  # a fault of the program: its traceback is the report
        return 1
    return status or 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """
    Makes a signal to stop an exception, so that half-written folders are removed. A second one ends the process at
    once, and so does the first in a process that was forked from this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    process = os.getpid()

    def stop(number: int, frame) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:
            os.kill(os.getpid(), number)
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handled = [number for number, handler in before.items() if handler is signal.SIG_DFL]  # nohup has it ignored
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _prepare_streams() -> None:
    """Streams that were closed swallow what is written to them; a character that a terminal lacks is escaped."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Sends what is left of the output nowhere; else Python tries to write it again when it exits, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _report(error: Exception, args: argparse.Namespace, status: int) -> int:
    """Writes an error as one line, and returns the exit status."""
    if args.traceback:
        traceback.print_exc()
    _log(f"{args.prog}: error: {_describe(error)}")
    return status


def _describe(error: Exception) -> str:
    """An error in one line; of one of the system, its file and its words without its number."""
    if isinstance(error, OSError) and error.strerror:
        text = f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def _parse(argv: list[str] | None) -> argparse.Namespace:
    args, unknown = _build_parser().parse_known_args(argv)
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


def _build_parser() -> OneLineParser:
    parser = OneLineParser(prog=PROG, description="FlashSloth: small, fast vision-language models.")
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("--traceback", action="store_true", help="print the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_ask(commands)
    _add_chat(commands)
    _add_convert(commands)
    _add_compose(commands)
    _add_quantize(commands)
    _add_export(commands)
    _add_train(commands)
    _add_merge(commands)
    _add_data(commands)
    _add_eval(commands)
    _add_answer(commands)
    _add_push(commands)
    _add_demo(commands)
    _add_serve(commands)
    bench = commands.add_parser("bench", add_help=False, help="measure speed and memory (see flashsloth bench --help)")
    bench.set_defaults(run=run_bench, prog=bench.prog)
    return parser


def _add_ask(commands) -> None:
    ask = _add_command(commands, "ask", run_ask, "answer a question about any number of images")
    ask.add_argument("question", metavar="QUESTION", type=_question)
    ask.add_argument(
        "--image", metavar="FILE_OR_URL", action="append", default=[], help="an image; can be given several times"
    )
    ask.add_argument(
        "--max-new-tokens", metavar="N", type=_positive, default=256, help="longest answer in tokens (default: 256)"
    )
    _add_model_options(ask, default="the shipped checkpoint", takes_exported=True)
    _add_device_option(ask)
    ask.add_argument("--threads", metavar="N", type=_positive, help="threads of onnxruntime (default: all cores)")
    ask.add_argument("--json", action="store_true", help="print one JSON object with the answer and its timing")


def _add_chat(commands) -> None:
    chat = _add_command(commands, "chat", run_chat, "hold a conversation about images in the terminal")
    chat.add_argument(
        "--image",
        metavar="FILE_OR_URL",
        action="append",
        default=[],
        help="an image for the first question; can be given several times",
    )
    chat.add_argument("--system", metavar="TEXT", help="system prompt in place of the published one")
    chat.add_argument(
        "--max-new-tokens", metavar="N", type=_positive, default=256, help="longest answer in tokens (default: 256)"
    )
    chat.add_argument(
        "--temperature", metavar="T", type=_temperature, help="sample, from logits divided by T (default: do not)"
    )
    chat.add_argument(
        "--top-p", metavar="P", type=_share, help="sample, from the likeliest tokens of total probability P"
    )
    chat.add_argument(
        "--history",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep typed lines for the next time, in $XDG_STATE_HOME/flashsloth/chat_history (default: yes)",
    )
    _add_model_options(chat, default="the shipped checkpoint", takes_exported=True)
    _add_device_option(chat)
    chat.add_argument("--threads", metavar="N", type=_positive, help="threads of onnxruntime (default: all cores)")


def _add_model_options(command: argparse.ArgumentParser, default: str, takes_exported: bool = False) -> None:
    command.add_argument("--model", metavar="M", help=f"model folder, or owner/name on the Hub (default: {default})")
    command.add_argument(
        "--revision", metavar="R", help="commit, branch or tag of the model on the Hub (default: its main branch)"
    )
    command.add_argument(
        "--hd",
        action=argparse.BooleanOptionalAction,
        help="process images in high definition, or not (default: as the checkpoint says)",
    )
    _add_loading_options(command, takes_exported)


def _add_loading_options(command: argparse.ArgumentParser, takes_exported: bool = False) -> None:
    command.add_argument(
        "--dtype",
        choices=(*DTYPES, *EXPORTED_DTYPES) if takes_exported else DTYPES,
        default="fast",
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


def _add_device_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", metavar="D", help="device that computes, such as cpu or cuda:1 (default: the GPU, if there is one)"
    )


def _add_convert(commands) -> None:
    summary = "convert a checkpoint from the published layout to this library's, or back"
    convert = _add_command(commands, "convert", run_convert, summary)
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


def _add_compose(commands) -> None:
    summary = "make a new, untrained FlashSloth from a causal language model and a SigLIP"
    compose = _add_command(commands, "compose", run_compose, summary)
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


def _add_quantize(commands) -> None:
    summary = "quantize a model's decoder to 8 or 4 bits per weight, for GPUs; for CPUs, export the model"
    quantize = _add_command(commands, "quantize", run_quantize, summary)
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
        type=_positive,
        help="weights that share a scale, for int4 (default: the largest that fits)",
    )


def _add_export(commands) -> None:
    export = _add_command(commands, "export", run_export, "write a model for CPUs, small machines and browsers")
    export.add_argument("src", metavar="SRC", help="the model: a folder, or REPO[@REVISION] on the Hub")
    export.add_argument("dst", metavar="DST", help="folder to write")
    export.add_argument(
        "--format",
        choices=["onnx", "executorch"],
        required=True,
        help="onnx: for onnxruntime, on small machines and in browsers",
    )
    export.add_argument(
        "--weights",
        choices=["float32", "float16", "int8", "int4"],
        action="append",
        help="dtype of the weights; may be repeated, and the first is the default of whoever loads the folder "
        "(default: float32)",
    )


def _add_train(commands) -> None:
    train = _add_command(commands, "train", run_train, "run one training stage")
    train.add_argument("config", metavar="CONFIG.yaml", help="the stage; train/configs has examples")
    train.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes a value of the file, also a nested one (lora.r=8)"
    )
    train.add_argument("--plan", action="store_true", help="print what the run would cost, and do not train")
    train.add_argument("--devices", metavar="N", type=_positive, help="with --plan: devices to plan for (default: 1)")


def _add_merge(commands) -> None:
    merge = _add_command(
        commands, "merge", run_merge, "merge an adapter and its base model into a complete model folder"
    )
    merge.add_argument("adapter", metavar="ADAPTER", help="adapter folder that a run with `lora` wrote")
    merge.add_argument("dst", metavar="DST", help="folder to write")
    merge.add_argument("--base", metavar="M", help="the adapter's base model (default: as the adapter says)")


def _add_data(commands) -> None:
    data = commands.add_parser(
        "data", help="validate and prepare training data", description="Validate and prepare training data."
    )
    commands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    check = _add_command(commands, "check", run_data_check, "read all data of a stage and list the broken rows")
    check.add_argument("config", metavar="CONFIG.yaml", help="the stage")
    check.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes a value of the file, also a nested one (lora.r=8)"
    )
    check.add_argument("--jsonl", metavar="FILE", help="write the broken rows to a file, one JSON object per line")
    summary = "compare a folder of images with the annotation file that names them"
    prepare = _add_command(commands, "prepare", run_data_prepare, summary)
    prepare.add_argument("annotations", metavar="ANNOTATIONS", help="such as llava_v1_5_mix665k.json")
    prepare.add_argument("images", metavar="DIR", help="folder that the paths of the images start from")
    prepare.add_argument(
        "--fix", action="store_true", help="rename and re-encode what is only misnamed; no file is overwritten"
    )
    prepare.add_argument("--jsonl", metavar="FILE", help="write what was found to a file, one JSON object per line")
    prepare.add_argument("--threads", metavar="N", type=_positive, help="images read at once (default: cores + 4)")


def _add_eval(commands) -> None:
    summary = "ask a model the questions of a benchmark by the LLaVA-1.5 protocol, and score its answers"
    evaluation = _add_command(commands, "eval", run_eval, summary)
    evaluation.add_argument("--task", choices=EVAL_TASKS, help="the benchmark")
    evaluation.add_argument("--questions", metavar="FILE", nargs="+", help="its published question files")
    evaluation.add_argument("--labels", metavar="FILE_OR_DIR", help="its published labels; without them, no scores")
    evaluation.add_argument("--images", metavar="DIR", help="folder of the images (default: that of the questions)")
    evaluation.add_argument("--output", metavar="DIR", help="folder to write; a stopped run continues there")
    _add_model_options(evaluation, default="none", takes_exported=True)
    evaluation.add_argument("--answers", metavar="FILE", help="score these answers in place of a model's")
    evaluation.add_argument("--batch-size", metavar="N", type=_positive, default=8, help="questions in a batch (8)")
    evaluation.add_argument(
        "--write", action="store_true", help="put the scores into the model folder's evaluation.json, for its card"
    )
    evaluation.add_argument(
        "--compare", metavar=("A", "B"), nargs=2, help="say whether two reports differ, on the same questions"
    )


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


def _add_answer(commands) -> None:
    answer = _add_command(commands, "answer", run_answer, "answer the questions of a whole data set")
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
    answer.add_argument("--question", metavar="TEXT", type=_question, help="one question for all rows")
    answer.add_argument("--question-column", metavar="NAME", help="column of the questions (default: question)")
    answer.add_argument("--image-column", metavar="NAME", help="column of the images (default: image or images)")
    answer.add_argument("--answer-column", metavar="NAME", default="answer", help="added column (default: answer)")
    answer.add_argument("--error-column", metavar="NAME", default="error", help="added column (default: error)")
    answer.add_argument(
        "--images", metavar="DIR", help="folder that paths of images start from (default: that of the questions)"
    )
    answer.add_argument("--subset", metavar="NAME", help="subset of a data set on the Hub (default: its only one)")
    answer.add_argument("--split", metavar="NAME", help="split of a data set on the Hub (default: its only one)")
    answer.add_argument(
        "--max-new-tokens", metavar="N", type=_positive, default=256, help="longest answer in tokens (default: 256)"
    )
    answer.add_argument("--batch-size", metavar="N", type=_positive, default=8, help="rows in a batch (default: 8)")
    answer.add_argument(
        "--workers", metavar="N", type=_positive, help="models that answer at once (default: one for each GPU, or one)"
    )
    answer.add_argument(
        "--address", metavar="A", help="Ray cluster that this machine is part of: its address, or auto"
    )
    _add_model_options(answer, default="the shipped checkpoint", takes_exported=True)


def _add_push(commands) -> None:
    summary = "upload a model folder to the Hub, with a model card, or a Space"
    push = _add_command(commands, "push", run_push, summary)
    push.add_argument("folder", metavar="DIR", help="model folder")
    push.add_argument("--space", action="store_true", help="DIR is a Space that `demo --space` wrote")
    push.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made if it does not exist")
    push.add_argument("--private", action="store_true", help="make the new repository private")
    push.add_argument("--revision", metavar="R", help="branch (made if missing) or refs/pr/N (default: main)")
    push.add_argument("--create-pr", action="store_true", help="propose it as a pull request")
    push.add_argument("--message", metavar="TEXT", help="of the commit, or title of the pull request")
    push.add_argument("--dry-run", action="store_true", help="check DIR and list what would be uploaded, offline")
    push.add_argument("--card", metavar="FILE", help="with --dry-run: write the model card to FILE")
    push.add_argument("--license", metavar="L", help="license id, such as apache-2.0 (default: the base models')")
    listed = {"metavar": "ID", "action": "append", "default": []}
    push.add_argument("--language", **listed | {"metavar": "L"}, help="language code, such as en; may be repeated")
    push.add_argument("--dataset", **listed, help="data on the Hub that it was trained on; may be repeated")
    push.add_argument("--base-model", **listed, help="model on the Hub that it was made from; may be repeated")
    push.add_argument(
        "--example",
        nargs=2,
        metavar=("IMAGE", "QUESTION"),
        help="image that is uploaded, and the question about it that the card shows with the model's answer",
    )
    push.add_argument(
        "--keep-card",
        action="store_true",
        help="make no model card: upload DIR's README.md, or leave the one on the Hub as it is",
    )


def _add_demo(commands) -> None:
    summary = "serve a demo in the browser: a chat about images, and what the model looked at"
    demo = _add_command(commands, "demo", run_demo, summary)
    demo.add_argument(
        "--model",
        metavar="M",
        action="append",
        help="model folder, or owner/name or owner/name@revision on the Hub; several can be chosen from (default: the "
        "two shipped checkpoints)",
    )
    _add_loading_options(demo)
    demo.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    demo.add_argument(
        "--port", metavar="P", type=_port, help="port to listen at (default: the first free from 7860 on)"
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


def _add_serve(commands) -> None:
    serve = _add_command(commands, "serve", run_serve, "answer requests of OpenAI clients over HTTP")
    _add_model_options(serve, default="the shipped checkpoint", takes_exported=True)
    serve.add_argument("--model-name", metavar="NAME", help="its name for clients (default: that of M)")
    serve.add_argument(
        "--host", metavar="H", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all networks (%(default)s)"
    )
    serve.add_argument(
        "--port", metavar="P", type=_port, default=8000, help="its port; 0 for a free one (%(default)s)"
    )
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
        serve.add_argument(option, metavar="N", type=_positive, default=default, help=f"most {meaning} (%(default)s)")
    serve.add_argument(
        "--allow-image-urls", action="store_true", help="fetch images from http(s) URLs with public addresses"
    )
    serve.add_argument(
        "--allow-private-addresses", action="store_true", help="fetch images from all addresses, this machine's too"
    )


def _add_command(commands, name: str, run, summary: str) -> OneLineParser:
    command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    command.set_defaults(run=run, prog=command.prog)
    return command


@contextlib.contextmanager
def _extra_packages(command: str, extra: str) -> Iterator[None]:
    """Names the remedy if a package is missing that only some commands need."""
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = f"install it with: pip install 'flashsloth[{extra}]'"
        raise ValueError(f"{command} needs {error.name}; {remedy}") from error


def _question(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the question is empty")
    return text


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return number


def _temperature(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0; leave it out for the likeliest tokens")
    return number


def _share(text: str) -> float:
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0 and up to 1")
    return number


def _number(text: str) -> float:
    """A number, which is not one (NaN) if the text is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port: a number from 0 to {MAX_PORT}")
    return int(text)


def _version() -> str:
    from flashsloth import __version__

    return __version__


def _log(message: str) -> None:
    print(without_secrets(message), file=sys.stderr, flush=True)
