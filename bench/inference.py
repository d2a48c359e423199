# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How long one answer takes. The same run measures a model without compression, `LlavaForConditionalGeneration`, in
which every patch is a visual token.

    flashsloth bench
    flashsloth bench --hd --repeats 5
    flashsloth bench --rows 16
    flashsloth bench --compile
    flashsloth bench --model checkpoints/flashsloth-tiny

Without `--model` the weights are random, at the size of the published 3.2 B model: the time of a dense model does not
depend on their values. Both models share one vision tower and one decoder, and take turns, because the first calls of
a process can be slower. Each figure is the median of `--repeats` runs after one that is not counted:

- processing: from image and question to tensors;
- vision: from pixels to visual tokens in the decoder's width;
- prefill: the decoder over the whole prompt, up to the logits of the first token;
- time to first token: all three together, from the image;
- seconds per token: further tokens of a greedy answer with a key-value cache. With `--compile` the cache is static and
  the step is compiled, which makes CUDA graphs on a GPU.

With `--rows` a batch of images and questions is measured: one row does not keep a GPU busy. Clocks wait for the
device. The last line of standard output is one JSON object.
"""

import argparse
import json
import statistics
import sys
from datetime import date

import torch
import transformers
from PIL import Image
from tqdm import tqdm
from transformers import DynamicCache, StaticCache

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, FlashSlothImageProcessor
from flashsloth.arguments import OneLineParser
from flashsloth.bench.measure import (
    Clock,
    default_dtype,
    device_name,
    log,
    peak_memory,
    print_table,
)
from flashsloth.bench.models import random_image, random_model, uncompressed_peer
from flashsloth.loading import default_device, find_flashsloth, load_model
from flashsloth.modeling_flashsloth import CACHE_NAME, FlashSlothImageFeatures


IMAGE_SIZE = (1500, 1000)  # width and height in pixels
# Tokens of the published prompt before the image, and of a usual question with the text after it.
TOKENS_BEFORE, TOKENS_AFTER = 32, 16


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    torch.manual_seed(0)
    device = torch.device(args.device)
    dtype = getattr(torch, args.dtype)
    log(f"Building the model on {device} in {args.dtype}")
    model = _load(args.model, device, dtype)
    size = model.config.vision_config.image_size
    image_processor = FlashSlothImageProcessor(size={"height": size, "width": size}, hd=args.hd)
    images = [random_image(*IMAGE_SIZE)] * args.rows
    runs = {"flashsloth": FlashSlothRun(model, image_processor, images)}
    if not args.no_peer:
        peer = uncompressed_peer(model)
        runs["llava"] = LlavaRun(peer, FlashSlothImageProcessor(size={"height": size, "width": size}), images)
    measurements = {name: Measurement(run, args, device) for name, run in runs.items()}
    with torch.inference_mode():
        for repeat in tqdm(range(args.repeats + 1), unit="run", file=sys.stderr):
            for measurement in measurements.values():
                measurement.repeat(is_counted=repeat > 0)
    results = {name: measurement.report() for name, measurement in measurements.items()}
    report = {
        "benchmark": "inference",
        "date": date.today().isoformat(),
        "model": args.model or "FlashSlothConfig(), random weights",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "hd": args.hd,
        "rows": args.rows,
        "compiled_decoding": args.compile,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **results,
    }
    if not args.no_peer:
        own, other = (results[name]["time_to_first_token_s"] for name in ("flashsloth", "llava"))
        report["time_to_first_token_ratio"] = round(own / other, 4)
    print_table(results, rows=list(results["flashsloth"]))
    print(json.dumps(report))


class FlashSlothRun:
    """One question about each image, in steps that can be timed."""

    def __init__(
        self, model: FlashSlothForCausalLM, image_processor: FlashSlothImageProcessor, images: list[Image.Image]
    ):
        self.model, self.image_processor, self.images = model, image_processor, images
        config = model.config
        self.visual_tokens = image_processor.num_views() * config.num_visual_tokens
        prompt = _prompt(config.image_token_id, self.visual_tokens, config.query_token_ids)
        self.input_ids = prompt.repeat(len(images), 1).to(model.device)
        self.view_mask = torch.ones(len(images), image_processor.num_views(), dtype=torch.long, device=model.device)

    def process(self) -> torch.Tensor:
        pixel_values = self.image_processor(self.images, return_tensors="pt")["pixel_values"]
        return pixel_values.to(self.model.device, self.model.dtype)

    def encode(self, pixel_values: torch.Tensor) -> FlashSlothImageFeatures:
        return self.model.get_image_features(pixel_values, self.view_mask)

    def prefill(self, features: FlashSlothImageFeatures, cache: DynamicCache) -> torch.Tensor:
        return self.model(
            self.input_ids, mm_encoder_outputs={"image": features}, **{CACHE_NAME: cache}, logits_to_keep=1
        ).logits


class LlavaRun(FlashSlothRun):
    """The same question without compression."""

    def __init__(self, model, image_processor, images):
        self.model, self.image_processor, self.images = model, image_processor, images
        self.visual_tokens = model.config.image_seq_length
        prompt = _prompt(model.config.image_token_index, self.visual_tokens, [])
        self.input_ids = prompt.repeat(len(images), 1).to(model.device)

    def encode(self, pixel_values):
        return self.model.get_image_features(pixel_values)

    def prefill(self, features, cache):
        return self.model(
            self.input_ids, mm_encoder_outputs={"image": features}, **{CACHE_NAME: cache}, logits_to_keep=1
        ).logits


def _prompt(image_token_id: int, visual_tokens: int, query_token_ids: list[int]) -> torch.Tensor:
    before, after = torch.arange(100, 100 + TOKENS_BEFORE), torch.arange(100, 100 + TOKENS_AFTER)
    image = torch.full((visual_tokens,), image_token_id)
    return torch.cat([before, image, after, torch.tensor(query_token_ids, dtype=torch.long), after[:4]]).unsqueeze(0)


class Measurement:
    """The runs of one model: the seconds of each step, and the peak memory of the run that is not counted."""

    def __init__(self, run: FlashSlothRun, args: argparse.Namespace, device: torch.device):
        self.run, self.device, self.clock = run, device, Clock(device)
        self.prompt_tokens = run.input_ids.shape[1]
        self.positions = torch.arange(self.prompt_tokens, self.prompt_tokens + args.new_tokens, device=device)
        self.text_config = run.model.config.text_config
        self.step, self.static_cache = run.model, None
        if args.compile:
            self.step = torch.compile(run.model, mode="reduce-overhead", fullgraph=True)
            self.static_cache = StaticCache(
                config=self.text_config, max_cache_len=self.prompt_tokens + args.new_tokens
            )
        self.peak_memory = 0
        self.seconds: dict[str, list[float]] = {}

    def repeat(self, is_counted: bool) -> None:
        """
        One run. The first is not counted: it warms up, and its peak memory is reported. On a CPU, where the peak of a
        process never falls, a later peak would include the other model's.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        pixel_values, processing = self.clock(self.run.process)
        features, vision = self.clock(self.run.encode, pixel_values)
        _, prefill = self.clock(self.run.prefill, features, self._empty_cache())
        cache = self._empty_cache()
        logits, whole = self.clock(self._first_token, cache)
        _, decoding = self.clock(self._decode, logits, cache)
        if not is_counted:
            self.peak_memory = peak_memory(self.device)
            return
        for key, value in (
            ("processing_s", processing),
            ("vision_s", vision),
            ("prefill_s", prefill),
            ("time_to_first_token_s", whole),
            ("seconds_per_token", decoding / len(self.positions)),
        ):
            self.seconds.setdefault(key, []).append(value)

    def report(self) -> dict:
        return {
            "visual_tokens": self.run.visual_tokens,
            "prompt_tokens": self.prompt_tokens,
            **{key: round(statistics.median(values), 5) for key, values in self.seconds.items()},
            "peak_memory_gb": round(self.peak_memory / 1e9, 3),
        }

    def _empty_cache(self) -> DynamicCache | StaticCache:
        if self.static_cache is None:
            return DynamicCache(config=self.text_config)
        self.static_cache.reset()
        return self.static_cache

    def _first_token(self, cache):
        return self.run.prefill(self.run.encode(self.run.process()), cache)

    def _decode(self, logits, cache):
        for position in self.positions[:, None, None]:
            token = logits[:, -1].argmax(-1, keepdim=True)
            logits = self.step(token, position_ids=position, **{CACHE_NAME: cache}, logits_to_keep=1).logits


def _load(folder: str | None, device: torch.device, dtype: torch.dtype) -> FlashSlothForCausalLM:
    if folder:
        return load_model(find_flashsloth(folder), dtype=dtype, device_map=device)
    return random_model(FlashSlothConfig(), device, dtype)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="flashsloth bench",
        description="Speed and memory of one answer.",
        epilog="Other benchmarks: flashsloth bench train, convert, quantize, export, eval, chat or serve; "
        "each has a --help.",
    )
    parser.add_argument("--model", metavar="DIR", help="model folder (default: random weights of the published size)")
    parser.add_argument("--hd", action="store_true", help="process images in high definition")
    parser.add_argument("--rows", type=int, default=1, help="images and questions in a batch (1)")
    parser.add_argument("--repeats", type=int, default=3, help="runs that are counted (3)")
    parser.add_argument("--new-tokens", type=int, default=8, help="timed tokens after the first (8)")
    parser.add_argument("--device", default=str(default_device()), help="cpu, cuda, mps... (%(default)s)")
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float16", "float32"],
        default=default_dtype(),
        help="dtype of weights and activations (%(default)s)",
    )
    parser.add_argument("--compile", action="store_true", help="decode with a static cache and a compiled step")
    parser.add_argument("--no-peer", action="store_true", help="do not measure the model without compression")
    args = parser.parse_args(argv)
    if min(args.rows, args.repeats, args.new_tokens) < 1:
        parser.error("--rows, --repeats and --new-tokens must be 1 or more")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch that was built without CUDA
        parser.error(f"--device {args.device} is not here: {str(error).splitlines()[0]}")
    return args
