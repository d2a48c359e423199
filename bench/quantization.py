# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The effect of `flashsloth quantize` on a model: its size, the cost of quantization, and the speed of decoding.

    flashsloth bench quantize
    flashsloth bench quantize --dtype float32 --model checkpoints/flashsloth-tiny

Without `--model` the weights are random, in bfloat16 and at the size of the published 3.2 B model. They are written
into a temporary folder, which needs about 15 GB and is removed at the end. The command runs once for each kind of
weights. Then each model, the original first, decodes in a process of its own. int4 decodes on
an NVIDIA GPU with mslk only; elsewhere the report leaves its last three figures out:

- disk: all files of the folder;
- quantize: seconds and peak memory of the command, measured as in `flashsloth bench convert`;
- load: seconds until the weights are on the device;
- memory: that of the process after decoding, with weights that are mapped from their file; on a GPU the peak of its
  allocator;
- seconds per token: the median of `--new-tokens` greedy tokens with a key-value cache, after one that is not counted.

`--dtype` is the dtype of activations and of weights that are not quantized. A CPU may be far slower in bfloat16 than
in float32. The last line of standard output is one JSON object.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import DynamicCache

from flashsloth import FlashSlothConfig, FlashSlothProcessor, register_auto_classes
from flashsloth.arguments import OneLineParser
from flashsloth.bench.measure import (
    Clock,
    check_free_disk,
    default_dtype,
    device_name,
    log,
    peak_memory,
    print_table,
    resident_memory,
    run_cli,
)
from flashsloth.bench.models import random_weights, weight_bytes, write_random_model
from flashsloth.convert.quantization import WEIGHTS
from flashsloth.folders.model_folder import model_on_meta
from flashsloth.loading import SHIPPED_CHECKPOINT, default_device, load_model, runs_int4


ORIGINAL = "original"
PROMPT = range(100, 116)  # token ids


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.only:
        print(json.dumps(_decode(args.only, args)))
        return
    with tempfile.TemporaryDirectory(prefix="flashsloth-bench-", dir=args.folder) as name:
        folder = Path(name)
        folders = {kind: folder / kind for kind in (ORIGINAL, *WEIGHTS)}
        if args.model:
            folders[ORIGINAL] = Path(args.model)
        else:
            _write_random_model(folders[ORIGINAL])
        results = {kind: {} for kind in folders}
        for weights in WEIGHTS:
            measured = run_cli(folders[weights], "quantize", folders[ORIGINAL], "--weights", weights)
            results[weights] |= {"quantize_s": measured["wall_s"], "quantize_peak_gb": measured["peak_memory_gb"]}
        for kind, model in folders.items():
            num_bytes = sum(file.stat().st_size for file in model.iterdir())
            results[kind] = {"disk_gb": round(num_bytes / 1e9, 6)} | results[kind]
            if kind != "int4" or (torch.device(args.device).type == "cuda" and runs_int4()):
                results[kind] |= _decode_apart(model, args)
    report = {
        "benchmark": "quantization",
        "date": date.today().isoformat(),
        "model": args.model or "FlashSlothConfig(), random weights in bfloat16",
        "dtype": args.dtype,
        "new_tokens": args.new_tokens,
        "device": device_name(torch.device(args.device)),
        "threads": torch.get_num_threads(),
        **{package: version(package) for package in ("torch", "torchao", "transformers")},
        **results,
    }
    print_table(results, rows=list(results[WEIGHTS[0]]))
    print(json.dumps(report))


def _write_random_model(folder: Path) -> None:
    """A model of the published size in bfloat16. Its processor does not matter: no image is shown."""
    config = FlashSlothConfig(dtype="bfloat16")
    model = model_on_meta(config)
    # the quantized models together are no larger than the original and a quarter
    check_free_disk(folder.parent.parent, 2.25 * weight_bytes(random_weights(model)))
    write_random_model(model, folder)
    register_auto_classes()
    FlashSlothProcessor.from_pretrained(SHIPPED_CHECKPOINT, trust_remote_code=False).save_pretrained(folder)


def _decode_apart(model: Path, args: argparse.Namespace) -> dict[str, float]:
    """Runs `_decode` in a process of its own, whose memory holds no other model."""
    command = [sys.executable, "-m", "flashsloth.bench.quantization", "--only", str(model), "--dtype", args.dtype]
    command += ["--new-tokens", str(args.new_tokens), "--device", args.device]
    log(f"Decoding with {model.name}")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"decoding with {model} failed with status {done.returncode}; its messages are above")
    return json.loads(done.stdout.splitlines()[-1])


@torch.inference_mode()
def _decode(folder: str, args: argparse.Namespace) -> dict[str, float]:
    device = torch.device(args.device)
    clock = Clock(device)
    dtype = getattr(torch, args.dtype)
    model, loading = clock(lambda: load_model(Path(folder), dtype=dtype, device_map=device))
    cache = DynamicCache(config=model.config.text_config)
    token = torch.tensor([list(PROMPT)], device=device)
    seconds = []
    for _ in range(args.new_tokens + 2):  # the prompt, and the token that is not counted
        output, taken = clock(lambda token=token: model(token, cache=cache, logits_to_keep=1))
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        seconds.append(taken)
    memory = peak_memory(device) if device.type == "cuda" else resident_memory()
    return {
        "load_s": round(loading, 1),
        "memory_gb": round(memory / 1e9, 3),
        "seconds_per_token": round(statistics.median(seconds[2:]), 4),
    }


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="flashsloth bench quantize", description="Size and speed of quantized models.")
    parser.add_argument("--model", metavar="DIR", help="model folder (default: random weights of the published size)")
    parser.add_argument("--new-tokens", type=int, default=8, help="timed tokens (8)")
    parser.add_argument("--device", default=str(default_device()), help="cpu, cuda, mps... (%(default)s)")
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float16", "float32"],
        default=default_dtype(),
        help="dtype of activations and of weights that are not quantized (%(default)s)",
    )
    parser.add_argument("--folder", metavar="DIR", help="place of the temporary folder (default: the system's)")
    parser.add_argument("--only", metavar="DIR", help="decode with one model in this process, and print only its JSON")
    args = parser.parse_args(argv)
    if args.new_tokens < 1:
        parser.error("--new-tokens must be 1 or more")
    if platform.system() != "Linux":
        parser.error("memory is measured from /proc, which this system does not have")
    return args


if __name__ == "__main__":
    main()
