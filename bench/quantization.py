# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What `flashsloth quantize` makes of a model: how small it gets, what that takes, and how fast it decodes.

    flashsloth bench quantize
    flashsloth bench quantize --dtype float32 --model checkpoints/flashsloth-tiny

Without `--model` the weights are random, in bfloat16 and at the size of the published 3.2 B model; they are written
into a temporary folder, which needs about 15 GB and is removed in the end. The command runs once for each kind of
weights, and then each model, the original first, decodes in a process of its own:

- disk: all files of the folder;
- quantize: seconds and peak memory of the command, measured as `flashsloth bench convert` does;
- load: seconds until the weights are on the device;
- memory: of the process after decoding, with weights that are mapped from their file; on a GPU the peak of its
  allocator;
- seconds per token: the median of `--new-tokens` greedy tokens with a key-value cache, after one that is not counted.

`--dtype` is that of activations, and of the weights that are not quantized; a CPU may be far slower with bfloat16 than
with float32. The last line of standard output is one JSON object.
"""

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import DynamicCache

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, FlashSlothProcessor, register_auto_classes
from flashsloth.bench.conversion import SPARE_BYTES, random_weights, run_cli, weight_bytes, write_backbone
from flashsloth.bench.inference import Clock, cpu_name, default_device, default_dtype, log, peak_memory
from flashsloth.convert.quantization import WEIGHTS
from flashsloth.folders.model_folder import model_on_meta
from flashsloth.loading import EMBEDDED_CHECKPOINT


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
            results[kind] = {"disk_gb": round(num_bytes / 1e9, 6)} | results[kind] | _decode_apart(model, args)
    report = {
        "benchmark": "quantization",
        "date": date.today().isoformat(),
        "model": args.model or "FlashSlothConfig(), random weights in bfloat16",
        "dtype": args.dtype,
        "new_tokens": args.new_tokens,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        **{package: version(package) for package in ("torch", "torchao", "transformers")},
        **results,
    }
    _print_table(results)
    print(json.dumps(report))


def _write_random_model(folder: Path) -> None:
    """The published size in bfloat16; any processor will do, as no picture is shown."""
    config = FlashSlothConfig(dtype="bfloat16")
    model = model_on_meta(config)
    # the quantized ones together are no larger than the original and a quarter
    needed, free = 2.25 * weight_bytes(random_weights(model)) + SPARE_BYTES, shutil.disk_usage(folder.parent).free
    log(f"This needs {needed / 1e9:.1f} GB of disk in {folder.parent.parent}, which has {free / 1e9:.1f} GB free")
    if needed > free:
        raise ValueError(
            f"{folder.parent.parent} has {free / 1e9:.1f} GB free, but the benchmark needs {needed / 1e9:.1f} GB. "
            "Name another place with --folder."
        )
    write_backbone(model, folder)
    register_auto_classes()
    FlashSlothProcessor.from_pretrained(EMBEDDED_CHECKPOINT).save_pretrained(folder)


def _decode_apart(model: Path, args: argparse.Namespace) -> dict[str, float]:
    """Runs `_decode` in a process of its own, so that no other model's memory is in it."""
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
    model, loading = clock(
        lambda: FlashSlothForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device).eval()
    )
    cache = DynamicCache(config=model.config.text_config)
    token = torch.tensor([list(PROMPT)], device=device)
    seconds = []
    for _ in range(args.new_tokens + 2):  # the prompt, and the token that is not counted
        output, taken = clock(lambda token=token: model(token, past_key_values=cache, logits_to_keep=1))
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        seconds.append(taken)
    memory = peak_memory(device) if device.type == "cuda" else _resident_memory()
    return {
        "load_s": round(loading, 1),
        "memory_gb": round(memory / 1e9, 3),
        "seconds_per_token": round(statistics.median(seconds[2:]), 4),
    }


def _resident_memory() -> int:
    """Bytes of this process, pages of files included."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _print_table(results: dict[str, dict[str, float]]) -> None:
    print(f"| | {' | '.join(results)} |\n| --- |{' ---: |' * len(results)}")
    for key in results[WEIGHTS[0]]:
        print(f"| {key} | {' | '.join(str(result.get(key, '')) for result in results.values())} |")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="flashsloth bench quantize", description="Size and speed of quantized models."
    )
    parser.add_argument("--model", metavar="DIR", help="a model folder; random weights of the published size if unset")
    parser.add_argument("--new-tokens", type=int, default=8, help="tokens that are timed (8)")
    parser.add_argument(
        "--device", default=default_device(), help="cpu, cuda, mps...; the accelerator if there is one"
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default=default_dtype())
    parser.add_argument("--folder", metavar="DIR", help="where to put the temporary folder; the system's if unset")
    parser.add_argument(
        "--only", metavar="DIR", help="decode with one model in this process, and print its JSON alone"
    )
    args = parser.parse_args(argv)
    if args.new_tokens < 1:
        parser.error("--new-tokens must be 1 or more")
    if platform.system() != "Linux":
        parser.error("memory is measured from /proc, which this system does not have")
    return args


if __name__ == "__main__":
    main()
