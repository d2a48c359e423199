# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How long one answer takes, and beside it, in the same run, the same towers without compression:
`LlavaForConditionalGeneration`, which feeds every patch to the decoder.

    flashsloth bench
    flashsloth bench --hd --repeats 5
    flashsloth bench --rows 16
    flashsloth bench --compile
    flashsloth bench --model checkpoints/flashsloth-tiny

Without `--model` the weights are random, at the size of the published 3.2 B model: the time of a dense model does not
depend on their values. Both models share one vision tower and one decoder. They take turns, since what a process does
first can be slower. What is measured, each as the median of `--repeats` runs after one that is not counted:

- processing: photo and question to tensors;
- vision: pixels to visual tokens in the decoder's width;
- prefill: the decoder over the whole prompt, to the logits of the first token;
- time to first token: all three in one piece, from the photo;
- seconds per token: the further tokens of a greedy answer with a key-value cache. With `--compile` that cache is
  static and the step compiled, which makes CUDA graphs on a GPU.

With `--rows` all of these are of a batch, of so many photos and questions: one row does not keep a GPU busy.
The device is waited for before each clock is read. The last line of standard output is one JSON object.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn
from tqdm import tqdm
from transformers import DynamicCache, LlavaConfig, LlavaForConditionalGeneration, StaticCache
from transformers.initialization import no_init_weights

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM, FlashSlothImageProcessor
from flashsloth.loading import has_fast_bfloat16
from flashsloth.modeling_flashsloth import FlashSlothImageFeatures


PHOTO_SIZE = (1500, 1000)  # pixels
# Tokens of the published prompt before the image, and of a question of usual length with what follows it.
TOKENS_BEFORE, TOKENS_AFTER = 32, 16
WEIGHT_STD = 0.02


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    torch.manual_seed(0)
    device = torch.device(args.device or default_device())
    dtype = getattr(torch, args.dtype)
    log(f"Building the model on {device} in {args.dtype}")
    model = _load(args.model, device, dtype)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*PHOTO_SIZE[::-1], 3), dtype=np.uint8))
    size = model.config.vision_config.image_size
    image_processor = FlashSlothImageProcessor(size={"height": size, "width": size}, hd=args.hd)
    photos = [photo] * args.rows
    runs = {"flashsloth": FlashSlothRun(model, image_processor, photos)}
    if not args.no_peer:
        peer = uncompressed_peer(model)
        runs["llava"] = LlavaRun(peer, FlashSlothImageProcessor(size={"height": size, "width": size}), photos)
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
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
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
    _print_table(report)
    print(json.dumps(report))


class FlashSlothRun:
    """One question about each photo, in steps that can be timed."""

    def __init__(
        self, model: FlashSlothForCausalLM, image_processor: FlashSlothImageProcessor, photos: list[Image.Image]
    ):
        self.model, self.image_processor, self.photos = model, image_processor, photos
        config = model.config
        self.visual_tokens = image_processor.num_views() * config.num_visual_tokens
        prompt = _prompt(config.image_token_id, self.visual_tokens, config.query_token_ids)
        self.input_ids = prompt.repeat(len(photos), 1).to(model.device)
        self.view_mask = torch.ones(len(photos), image_processor.num_views(), dtype=torch.long, device=model.device)

    def process(self) -> torch.Tensor:
        pixel_values = self.image_processor(self.photos, return_tensors="pt")["pixel_values"]
        return pixel_values.to(self.model.device, self.model.dtype)

    def see(self, pixel_values: torch.Tensor) -> FlashSlothImageFeatures:
        return self.model.get_image_features(pixel_values, self.view_mask)

    def prefill(self, features: FlashSlothImageFeatures, cache: DynamicCache) -> torch.Tensor:
        return self.model(
            self.input_ids, mm_encoder_outputs={"image": features}, past_key_values=cache, logits_to_keep=1
        ).logits


class LlavaRun(FlashSlothRun):
    """The same without compression."""

    def __init__(self, model, image_processor, photos):
        self.model, self.image_processor, self.photos = model, image_processor, photos
        self.visual_tokens = model.config.image_seq_length
        prompt = _prompt(model.config.image_token_index, self.visual_tokens, [])
        self.input_ids = prompt.repeat(len(photos), 1).to(model.device)

    def see(self, pixel_values):
        return self.model.get_image_features(pixel_values)

    def prefill(self, features, cache):
        return self.model(
            self.input_ids, mm_encoder_outputs={"image": features}, past_key_values=cache, logits_to_keep=1
        ).logits


def _prompt(image_token_id: int, visual_tokens: int, query_token_ids: list[int]) -> torch.Tensor:
    before, after = torch.arange(100, 100 + TOKENS_BEFORE), torch.arange(100, 100 + TOKENS_AFTER)
    image = torch.full((visual_tokens,), image_token_id)
    return torch.cat([before, image, after, torch.tensor(query_token_ids, dtype=torch.long), after[:4]]).unsqueeze(0)


class Measurement:
    """The runs of one model: seconds of each step, and the peak of memory of the run that is not counted."""

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
        One run. All models have one before the counted ones: it warms up, and its peak of memory is what is reported.
        On a CPU, where a process's peak never falls, that of a later run would include the other model's.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        pixel_values, processing = self.clock(self.run.process)
        features, vision = self.clock(self.run.see, pixel_values)
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
        return self.run.prefill(self.run.see(self.run.process()), cache)

    def _decode(self, logits, cache):
        for position in self.positions[:, None, None]:
            token = logits[:, -1].argmax(-1, keepdim=True)
            logits = self.step(token, position_ids=position, past_key_values=cache, logits_to_keep=1).logits


class Clock:
    """Times a call, and waits for the device before and after it."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self, function: Callable, *args) -> tuple:
        self._wait()
        start = time.perf_counter()
        result = function(*args)
        self._wait()
        return result, time.perf_counter() - start

    def _wait(self):
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def _load(folder: str | None, device: torch.device, dtype: torch.dtype) -> FlashSlothForCausalLM:
    if folder:
        try:
            return FlashSlothForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device).eval()
        except OSError as error:
            raise ValueError(f"The model {folder} cannot be loaded: {error}") from error
    with no_init_weights(), device:
        model = FlashSlothForCausalLM._from_config(FlashSlothConfig(), dtype=dtype)
    for parameter in tqdm(list(model.parameters()), desc="random weights", unit="tensor", file=sys.stderr):
        parameter.data.normal_(std=WEIGHT_STD)
    return model.eval()


def uncompressed_peer(model: FlashSlothForCausalLM) -> LlavaForConditionalGeneration:
    """A LLaVA around the same tower, decoder and head; only its projector is its own."""
    config = LlavaConfig(
        vision_config=model.config.vision_config,
        text_config=model.config.text_config,
        image_token_index=model.config.image_token_id,
        image_seq_length=model.config.num_patches,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    with torch.device("meta"):
        peer = LlavaForConditionalGeneration(config)
    peer.model.vision_tower = model.model.vision_tower
    peer.model.multi_modal_projector.to_empty(device=model.device)
    for parameter in peer.model.multi_modal_projector.to(model.dtype).parameters():
        nn.init.normal_(parameter, std=WEIGHT_STD)
    peer.model.language_model = model.model.language_model
    peer.lm_head = model.lm_head
    return peer.eval()


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU what its allocator held, on a CPU what the whole process held, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def default_device() -> str:
    return str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"


def default_dtype() -> str:
    """bfloat16, but float32 on a CPU without instructions for it, where nobody would compute in it."""
    return "bfloat16" if torch.accelerator.is_available() or has_fast_bfloat16() else "float32"


def cpu_name() -> str:
    return platform.processor() or platform.machine()


def _print_table(report: dict) -> None:
    names = [name for name in ("flashsloth", "llava") if name in report]
    print(f"| | {' | '.join(names)} |\n| --- |{' ---: |' * len(names)}")
    for key in report[names[0]]:
        print(f"| {key} | {' | '.join(str(report[name][key]) for name in names)} |")


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flashsloth bench", description="Speed and memory of one answer.")
    parser.add_argument("--model", metavar="DIR", help="a model folder; random weights of the published size if unset")
    parser.add_argument("--hd", action="store_true", help="with the high-resolution tiles")
    parser.add_argument("--rows", type=int, default=1, help="photos and questions that make one batch (1)")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs (3)")
    parser.add_argument("--new-tokens", type=int, default=8, help="tokens after the first that are timed (8)")
    parser.add_argument("--device", help="cpu, cuda, mps...; the accelerator if there is one")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default=default_dtype())
    parser.add_argument("--compile", action="store_true", help="decode with a static cache and a compiled step")
    parser.add_argument("--no-peer", action="store_true", help="leave the uncompressed model out")
    args = parser.parse_args(argv)
    if min(args.rows, args.repeats, args.new_tokens) < 1:
        parser.error("--rows, --repeats and --new-tokens must be 1 or more")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch that was built without CUDA
        parser.error(f"--device {args.device} is not here: {str(error).splitlines()[0]}")
    return args
