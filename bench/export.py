# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The effect of `flashsloth export` on a CPU: time and memory of the export, of the first token, and of each further one.

    flashsloth bench export
    flashsloth bench export --model checkpoints/flashsloth-tiny --weights int8 --weights int4

Without `--model` the weights are random, in bfloat16 and at the size of the published 3.2 B model: the time of a dense
model does not depend on their values. They and the exported models are written into a temporary folder, which needs
about 30 GB and is removed at the end. Each model answers the same question about the same image, `--rounds` times in
turns: torch in float32 first, then onnxruntime with each of the weights, and then again. Each time it is in a process
of its own:

- export: seconds of the command and the peak of its own memory, without the files that are mapped into it;
- disk: all files that onnxruntime loads;
- load: seconds until a question can be asked, imports included;
- first token: seconds from image and question to the first token;
- seconds per token: further tokens of a greedy answer with a key-value cache;
- peak memory: of the whole process, libraries and pages of mapped files included.

The figures are medians over the rounds. The last line of standard output is one JSON object.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from flashsloth import FlashSlothConfig
from flashsloth.arguments import OneLineParser
from flashsloth.bench.measure import check_free_disk, device_name, log, print_table, run_cli
from flashsloth.bench.models import phi_tokenizer, random_image, random_weights, weight_bytes, write_random_model
from flashsloth.folders.exported import WEIGHTS, files_of, read_export
from flashsloth.folders.model_folder import model_on_meta, new_generation_config, new_processor
from flashsloth.folders.tokenizer import add_special_tokens


IMAGE_SIZE = (1500, 1000)  # width and height in pixels
QUESTION = "What is written on the sign, and who is standing next to it?"
TORCH = "torch float32"
COPIES = 4.6  # bytes of the exported models, in those of a checkpoint in bfloat16: float32 is 2, and int8 and int4 one


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.only:
        print(json.dumps(_answer(args.only, args)))
        return
    with tempfile.TemporaryDirectory(prefix="flashsloth-bench-", dir=args.folder) as name:
        folder = Path(name)
        model = Path(args.model) if args.model else _write_random_model(folder / "model")
        results: dict[str, dict] = {TORCH: {}}
        for weights in args.weights:
            results[_name(weights)] = _export(model, folder / weights, weights)
        runs = {result: [] for result in results}
        for _ in range(args.rounds):
            runs[TORCH].append(_answer_apart(model, "torch", args))
            for weights in args.weights:
                runs[_name(weights)].append(_answer_apart(folder / weights, "onnxruntime", args))
    for result, measured in runs.items():
        results[result] |= {key: round(statistics.median(run[key] for run in measured), 4) for key in measured[0]}
    base = results[TORCH]["seconds_per_token"]
    for result in results.values():
        result["seconds_per_token_ratio"] = round(result["seconds_per_token"] / base, 3)
    report = {
        "benchmark": "export",
        "date": date.today().isoformat(),
        "model": args.model or "FlashSlothConfig(), random weights in bfloat16",
        "hd": args.hd,
        "new_tokens": args.new_tokens,
        "rounds": args.rounds,
        "threads": args.threads,
        "device": device_name_of_cpu(),
        **{package: version(package) for package in ("torch", "onnxruntime", "transformers")},
        **results,
    }
    print_table(results, rows=list(results[_name(args.weights[0])]))
    print(json.dumps(report))


def device_name_of_cpu() -> str:
    import torch

    return device_name(torch.device("cpu"))


def _name(weights: str) -> str:
    return f"onnxruntime {weights}"


def _write_random_model(folder: Path) -> Path:
    """A complete model of the published size in bfloat16."""
    config = FlashSlothConfig(dtype="bfloat16")
    model = model_on_meta(config)
    check_free_disk(folder.parent.parent, COPIES * weight_bytes(random_weights(model)))
    write_random_model(model, folder)
    new_processor(config, add_special_tokens(phi_tokenizer(), config.num_query_tokens)).save_pretrained(folder)
    new_generation_config(config).save_pretrained(folder)
    return folder


def _export(model: Path, folder: Path, weights: str) -> dict[str, float]:
    measured = run_cli(folder, "export", "--format", "onnx", "--weights", weights, model)
    num_bytes = sum(files_of(read_export(folder), weights).values())
    return {
        "export_s": measured["wall_s"],
        "export_peak_gb": measured["peak_memory_gb"],
        "disk_gb": round(num_bytes / 1e9, 3),
    }


def _answer_apart(model: Path, backend: str, args: argparse.Namespace) -> dict[str, float]:
    """Runs `_answer` in a process of its own, whose memory holds no other model."""
    command = [sys.executable, "-m", "flashsloth.bench.export", "--only", str(model), "--backend", backend]
    command += ["--new-tokens", str(args.new_tokens), "--threads", str(args.threads), *(["--hd"] if args.hd else [])]
    log(f"Answering with {model.name} by {backend}")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{model} failed with status {done.returncode}; its messages are above")
    return json.loads(done.stdout.splitlines()[-1])


def _answer(folder: str, args: argparse.Namespace) -> dict[str, float]:
    start = time.perf_counter()
    import flashsloth

    options = {"threads": args.threads, "hd": args.hd, "backend": args.backend}
    if args.backend == "torch":
        import torch

        torch.set_num_threads(options.pop("threads"))
        options["dtype"] = "float32"
    model = flashsloth.load(folder, device="cpu", **options)
    loading = time.perf_counter() - start
    image = random_image(*IMAGE_SIZE)
    length = {"max_new_tokens": args.new_tokens + 1, "min_new_tokens": args.new_tokens + 1}
    model.ask(image, QUESTION, max_new_tokens=2, min_new_tokens=2)  # not counted
    answer = model.ask(image, QUESTION, **length)
    return {
        "load_s": loading,
        "time_to_first_token_s": answer.seconds_to_first_token,
        "seconds_per_token": 1 / answer.tokens_per_second,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="flashsloth bench export", description="Speed and memory of exported models on a CPU, beside torch."
    )
    parser.add_argument("--model", metavar="DIR", help="model folder (default: random weights of the published size)")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        action="append",
        help="weights to export; may be repeated (default: float32, int8 and int4)",
    )
    parser.add_argument("--hd", action="store_true", help="process the image in high definition")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each model (2)")
    parser.add_argument("--new-tokens", type=int, default=8, help="timed tokens after the first (8)")
    parser.add_argument("--threads", type=int, default=2, help="threads that compute (2)")
    parser.add_argument("--folder", metavar="DIR", help="place of the temporary folder (default: the system's)")
    parser.add_argument("--only", metavar="DIR", help="answer with one model in this process, and print only its JSON")
    parser.add_argument("--backend", choices=("torch", "onnxruntime"), default="torch", help="with --only (torch)")
    args = parser.parse_args(argv)
    args.weights = list(dict.fromkeys(args.weights or ("float32", "int8", "int4")))
    if min(args.rounds, args.new_tokens, args.threads) < 1:
        parser.error("--rounds, --new-tokens and --threads must be 1 or more")
    if platform.system() != "Linux":
        parser.error("memory is measured from /proc, which this system does not have")
    return args


if __name__ == "__main__":
    main()
