# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How long one step of stage 2 takes and how much memory it needs. The same step is measured without compression: plain
TRL (`SFTTrainer`) on `LlavaForConditionalGeneration`, in which every patch is a visual token.

    flashsloth bench train
    flashsloth bench train --text-width 512 --text-layers 12 --rows 8

Both models have the same vision tower, decoder and head, with random weights and the sizes of the arguments, and learn
from the same rows in the same order. Everything but the vision tower trains. Each model runs in a process of its own,
several times in turn: no model's memory adds to the other's, and a busy moment of the machine affects both. A step is
the time from the end of one optimizer step to the end of the next, with reading and resizing of images. The first
steps of a process are not counted. The last line of standard output is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from itertools import pairwise

import torch
import transformers
import trl
from datasets import Dataset, Features, Image, List, Value
from tqdm import tqdm
from transformers import AutoTokenizer, LlavaProcessor, TrainerCallback
from trl import SFTConfig, SFTTrainer

from flashsloth import (
    FlashSlothConfig,
    FlashSlothForCausalLM,
    FlashSlothImageProcessor,
    FlashSlothProcessor,
    register_auto_classes,
)
from flashsloth.arguments import OneLineParser
from flashsloth.bench.measure import Clock, default_dtype, device_name, peak_memory, print_table
from flashsloth.bench.models import random_image, uncompressed_peer
from flashsloth.loading import SHIPPED_CHECKPOINT, default_device
from flashsloth.processing_flashsloth import CHAT_TEMPLATE, QUERY_SLOT_TOKEN
from flashsloth.train.trainer import FlashSlothTrainer


NAMES = ("flashsloth", "llava")
IMAGE_SIZE = (640, 480)  # width and height in pixels
QUESTION = "What colour is the square, and how many circles are there?"
WORD = " circle"
SIZES = ("image_size", "patch_size", "vision_width", "vision_layers", "text_width", "text_layers")


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.only:
        print(json.dumps(run(args.only, args)))
        return
    arguments = sys.argv[1:] if argv is None else argv
    results = {name: {"step_s": [], "peak_memory_gb": []} for name in NAMES}
    for _ in tqdm(range(args.rounds), desc="rounds", file=sys.stderr):
        for name in NAMES:
            measured = run_apart(name, arguments)
            results[name]["step_s"] += measured.pop("step_s")
            results[name]["peak_memory_gb"].append(measured.pop("peak_memory_gb"))
            results[name] |= measured
    for result in results.values():
        for key in ("step_s", "peak_memory_gb"):
            result[key] = round(statistics.median(result[key]), 4)
    report = {
        "benchmark": "training",
        "date": date.today().isoformat(),
        "stage": "2: all but the vision tower",
        **{size: getattr(args, size) for size in (*SIZES, "rows", "answer_words", "steps", "rounds", "dtype")},
        "device": device_name(default_device()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        **results,
        "step_ratio": round(results["flashsloth"]["step_s"] / results["llava"]["step_s"], 4),
    }
    print_table(results, rows=list(results["flashsloth"]))
    print(json.dumps(report))


def run_apart(name: str, arguments: list[str]) -> dict:
    """Runs one of the models in a process of its own."""
    command = [sys.executable, "-m", "flashsloth.bench.training", *arguments, "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the run of {name} failed with status {done.returncode}; its messages are above")
    return json.loads(done.stdout.splitlines()[-1])


def run(name: str, args: argparse.Namespace) -> dict:
    """Some steps of one of the models, in this process."""
    torch.manual_seed(0)
    register_auto_classes()
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_CHECKPOINT, trust_remote_code=False)
    model = FlashSlothForCausalLM(_model_config(args)).float()  # the checkpoint's config says bfloat16 of its parts
    config = model.config
    image_processor = FlashSlothImageProcessor(size={"height": args.image_size, "width": args.image_size})
    trainer_class = FlashSlothTrainer
    processor = FlashSlothProcessor(image_processor, tokenizer, config.num_visual_tokens, config.num_query_tokens)
    visual_tokens = config.num_visual_tokens
    if name == "llava":
        model, trainer_class, visual_tokens = uncompressed_peer(model), SFTTrainer, config.num_patches
        processor = LlavaProcessor(
            image_processor,
            tokenizer,
            patch_size=args.patch_size,
            vision_feature_select_strategy="full",
            chat_template=CHAT_TEMPLATE.replace(QUERY_SLOT_TOKEN, ""),
        )
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    step_times = _StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=args.rows,
            max_steps=args.warmup + args.steps,
            train_sampling_strategy="sequential",
            max_length=None,
            assistant_only_loss=True,
            activation_checkpointing=args.gradient_checkpointing,
            bf16=args.dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = trainer_class(
            model=model, args=settings, train_dataset=_rows(args), processing_class=processor, callbacks=[step_times]
        )
        sequence = trainer.data_collator([trainer.train_dataset[0]])["input_ids"]
        trainer.train()
    device = trainer.args.device
    return {
        "visual_tokens": visual_tokens,
        "sequence_tokens": sequence.shape[1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_s": [after - before for before, after in pairwise(step_times.ends[args.warmup - 1 :])],
        "peak_memory_gb": round(peak_memory(device) / 1e9, 3),
    }


class _StepTimes(TrainerCallback):
    """Keeps the time at the end of each optimizer step."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(Clock(args.device).now())


def _model_config(args: argparse.Namespace) -> FlashSlothConfig:
    """The shipped checkpoint's token ids, the published pooling, and the sizes of the arguments."""
    fields = FlashSlothConfig.from_pretrained(SHIPPED_CHECKPOINT).to_dict()
    fields["pooling_size"] = FlashSlothConfig().pooling_size
    fields["vision_config"] |= {
        "image_size": args.image_size,
        "patch_size": args.patch_size,
        "hidden_size": args.vision_width,
        "intermediate_size": 4 * args.vision_width,
        "num_hidden_layers": args.vision_layers,
        "num_attention_heads": args.vision_width // args.head_width,
    }
    fields["text_config"] |= {
        "hidden_size": args.text_width,
        "intermediate_size": 4 * args.text_width,
        "num_hidden_layers": args.text_layers,
        "num_attention_heads": args.text_width // args.head_width,
        "num_key_value_heads": args.text_width // args.head_width,
        "max_position_embeddings": 2048,
    }
    # As in the published model: a fifth of the depth, and a quarter of the width.
    fields |= {"query_layer": args.text_layers // 5, "query_hidden_size": args.vision_width // 2, "query_num_heads": 2}
    return FlashSlothConfig(**fields)


def _rows(args: argparse.Namespace) -> Dataset:
    """As many rows as the steps need, each with one image and one question."""
    messages = [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": [{"type": "text", "text": (WORD * args.answer_words).strip()}]},
    ]
    content = List({"type": Value("string"), "text": Value("string")})
    features = Features({"images": List(Image()), "messages": List({"role": Value("string"), "content": content})})
    row = {"images": [random_image(*IMAGE_SIZE)], "messages": messages}
    return Dataset.from_list([row] * (args.rows * (args.warmup + args.steps)), features=features)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="flashsloth bench train", description="Time and memory of a training step.")
    for name, value, unit in (
        ("image-size", 384, "pixels along a side of the view"),
        ("patch-size", 14, "pixels along a side of a patch"),
        ("vision-width", 256, "width of the vision tower"),
        ("vision-layers", 4, "layers of the vision tower"),
        ("text-width", 512, "width of the decoder"),
        ("text-layers", 8, "layers of the decoder"),
        ("head-width", 64, "width of an attention head"),
        ("rows", 4, "rows in a step"),
        ("answer-words", 40, "words in an answer"),
        ("warmup", 2, "steps at the start of a process that are not counted"),
        ("steps", 5, "steps of a process that are counted"),
        ("rounds", 3, "processes for each model"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{unit} ({value})")
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float32"], default=default_dtype(), help="dtype of computations (%(default)s)"
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="recompute activations in the backward pass"
    )
    parser.add_argument("--only", choices=NAMES, help="measure one model in this process, and print only its JSON")
    args = parser.parse_args(argv)
    if min(args.warmup, args.steps, args.rounds, args.rows) < 1:
        parser.error("--warmup, --steps, --rounds and --rows must be 1 or more")
    return args


if __name__ == "__main__":
    main()
