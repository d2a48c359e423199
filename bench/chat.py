# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What a chat saves by keeping its cache: the time to the first token of a second turn, which computes its own tokens
only, and that of the same turn when the whole conversation is computed again, image included.

    flashsloth bench chat
    flashsloth bench chat --hd --repeats 5
    flashsloth bench chat --model checkpoints/flashsloth-tiny

Without `--model` the weights are random, at the size of the published 3.2 B model, and the tokenizer is that of the
shipped checkpoint. Both ways take turns. Each figure is the median of `--repeats` runs after one that is not counted,
in seconds from question and opened image. The last line of standard output is one JSON object.
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
from transformers import AutoTokenizer

from flashsloth import FlashSlothConfig, FlashSlothImageProcessor, FlashSlothProcessor, register_auto_classes
from flashsloth.arguments import OneLineParser
from flashsloth.assistant.assistant import Assistant
from flashsloth.assistant.stream import Watch
from flashsloth.assistant.torch_backend import TorchBackend
from flashsloth.bench.inference import IMAGE_SIZE
from flashsloth.bench.measure import default_dtype, device_name, log, print_table
from flashsloth.bench.models import random_image, random_model
from flashsloth.folders.tokenizer import add_special_tokens, special_tokens
from flashsloth.loading import SHIPPED_CHECKPOINT, default_device, find_device, load_model_and_processor


# The config's names of the special tokens, in the tokenizer's order.
SPECIAL_TOKEN_IDS = (
    "query_slot_token_id",
    "eos_token_id",
    "image_token_id",
    "pad_token_id",
    "first_query_token_id",
)
FIRST, SECOND = "What colour is the square in this picture?", "Where in the picture is the star?"


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    torch.manual_seed(0)
    assistant = load(args.model, torch.device(args.device), getattr(torch, args.dtype))
    image = random_image(*IMAGE_SIZE)
    seconds: dict[str, list[float]] = {}
    for repeat in tqdm(range(args.repeats + 1), unit="run", file=sys.stderr):
        for name, value in measure(assistant, image, args.new_tokens, args.hd).items():
            if repeat:
                seconds.setdefault(name, []).append(value)
    medians = {name: round(statistics.median(values), 5) for name, values in seconds.items()}
    results = {name: {"seconds_to_first_token": median} for name, median in medians.items()}
    print_table(results, rows=["seconds_to_first_token"])
    report = {
        "benchmark": "chat",
        "date": date.today().isoformat(),
        "model": args.model or "FlashSlothConfig(), random weights",
        "hd": args.hd,
        "new_tokens": args.new_tokens,
        "device": device_name(torch.device(args.device)),
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **results,
        "second_turn_ratio": round(medians["second turn"] / medians["second turn recomputed"], 4),
    }
    print(json.dumps(report))


def measure(assistant: Assistant, image: Image.Image, new_tokens: int, hd: bool) -> dict[str, float]:
    """Seconds to the first token of two turns, and of the second when it is computed with all that is before it."""
    length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    chat = assistant.chat(hd=hd)
    first, second = chat.ask(FIRST, image, **length), chat.ask(SECOND, **length)
    watch = Watch()
    inputs = assistant.processor.apply_chat_template(
        chat.messages[:-1],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors=assistant.backend.tensor_type,
        hd=hd,
    )
    assistant.backend.generate(inputs, {**length, "do_sample": False}, watch)
    return {
        "first turn": first.seconds_to_first_token,
        "second turn": second.seconds_to_first_token,
        "second turn recomputed": watch.token_times[0] - watch.start,
    }


def load(folder: str | None, device: torch.device, dtype: torch.dtype) -> Assistant:
    """A model folder, or random weights of the published size with a processor for them."""
    if folder:
        model, processor = load_model_and_processor(folder, dtype=dtype, device=device)
        return Assistant(TorchBackend(model, processor), processor)
    register_auto_classes()
    published = FlashSlothConfig()
    tokenizer = add_special_tokens(
        AutoTokenizer.from_pretrained(SHIPPED_CHECKPOINT, trust_remote_code=False), published.num_query_tokens
    )
    ids = dict(zip(SPECIAL_TOKEN_IDS, tokenizer.convert_tokens_to_ids(special_tokens(1)), strict=True))
    config = FlashSlothConfig(**ids)
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    processor = FlashSlothProcessor(
        FlashSlothImageProcessor(size=size), tokenizer, config.num_visual_tokens, config.num_query_tokens
    )
    log(f"Building the model on {device} in {str(dtype).removeprefix('torch.')}")
    model = random_model(config, device, dtype)
    return Assistant(TorchBackend(model, processor), processor)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="flashsloth bench chat", description="What a chat saves by keeping its cache.")
    parser.add_argument("--model", metavar="DIR", help="model folder (default: random weights of the published size)")
    parser.add_argument("--hd", action="store_true", help="process images in high definition")
    parser.add_argument("--repeats", type=int, default=3, help="runs that are counted (3)")
    parser.add_argument("--new-tokens", type=int, default=8, help="tokens of each answer (8)")
    parser.add_argument("--device", default=str(default_device()), help="cpu, cuda, mps... (%(default)s)")
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float16", "float32"],
        default=default_dtype(),
        help="dtype of weights and activations (%(default)s)",
    )
    args = parser.parse_args(argv)
    if min(args.repeats, args.new_tokens) < 1:
        parser.error("--repeats and --new-tokens must be 1 or more")
    try:
        find_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    return args


if __name__ == "__main__":
    main()
