# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How much memory, time and disk `flashsloth compose` and `flashsloth convert` take at the published size.

    flashsloth bench convert
    flashsloth bench convert --folder /mnt/large

First the backbones are written with random weights: a Phi-2 in float16 and a whole SigLIP so400m in float32, sharded
like their repositories on the Hub. Then each command runs in a process of its own: `compose` makes a model of them,
`convert --to-original` writes it in the published layout, and `convert` reads that again, which must give the same
bytes. All files are in a temporary folder, which needs about 20 GB and is removed at the end.

Peak memory is the process's own: `RssAnon` and `RssShmem` of /proc/PID/status, read every few milliseconds. Pages of
files do not count: the system drops them when it needs memory. The last line of standard output is one JSON object.
"""

import argparse
import filecmp
import json
import tempfile
from datetime import date
from pathlib import Path

import torch
import transformers
from transformers import PhiForCausalLM, PreTrainedModel, SiglipConfig, SiglipModel

from flashsloth import FlashSlothConfig
from flashsloth.arguments import OneLineParser
from flashsloth.bench.measure import check_free_disk, device_name, print_table, run_cli
from flashsloth.bench.models import phi_tokenizer, random_weights, weight_bytes, write_random_model
from flashsloth.folders.model_folder import expected_shapes


# Fields of the text half of SigLIP so400m that the vision half does not have
# (https://huggingface.co/google/siglip-so400m-patch14-384); `compose` ignores that half.
SIGLIP_TEXT = {"vocab_size": 32000, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    language, vision = _backbones(args)
    parameters = sum(shape.numel() for shape in _model_shapes(language, vision).values())
    with tempfile.TemporaryDirectory(prefix="flashsloth-bench-", dir=args.folder) as name:
        folder = Path(name)
        model_bytes = parameters * torch.bfloat16.itemsize
        input_bytes = sum(weight_bytes(random_weights(model)) for model in (language, vision))
        check_free_disk(folder.parent, max(input_bytes + model_bytes, 3 * model_bytes))
        write_random_model(language, folder / "language")
        write_random_model(vision, folder / "vision")
        phi_tokenizer().save_pretrained(folder / "language")
        results, same_bytes = _run_commands(folder)
    report = {
        "benchmark": "conversion",
        "date": date.today().isoformat(),
        "parameters": parameters,
        "dtype": "bfloat16",
        "device": device_name(torch.device("cpu")),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "results": results,
        "peak_memory_gb": max(result["peak_memory_gb"] for result in results.values()),
        "same_bytes_after_return": same_bytes,
    }
    print_table(results, rows=list(results["compose"]))
    print(json.dumps(report))


def _run_commands(folder: Path) -> tuple[dict[str, dict[str, float]], bool]:
    """Composes, converts and converts back: the figures of each command, and whether the bytes are the same."""
    language, vision, composed, original, back = (
        folder / name for name in ("language", "vision", "composed", "original", "back")
    )
    names = ["--language-model", language, "--vision-model", vision, "--dtype", "bfloat16"]
    results = {"compose": run_cli(composed, "compose", *names)}
    for backbone in (language, vision):  # frees their place on the disk
        for file in backbone.glob("model*.safetensors"):
            file.unlink()
    results["convert --to-original"] = run_cli(original, "convert", "--to-original", composed)
    results["convert"] = run_cli(back, "convert", original, "--vision-config", vision / "config.json")
    files = [file.name for file in composed.glob("*.safetensors")]
    _, differing, missing = filecmp.cmpfiles(composed, back, files, shallow=False)
    return results, not differing and not missing


def _backbones(args: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The two models without memory for their weights, with the proportions of the published ones."""
    published = FlashSlothConfig()
    text, tower = published.text_config, published.vision_config
    text.intermediate_size = text.intermediate_size * args.text_width // text.hidden_size
    text.hidden_size, text.num_hidden_layers = args.text_width, args.text_layers
    text.num_attention_heads = text.num_key_value_heads = args.text_heads
    tower.intermediate_size = tower.intermediate_size * args.vision_width // tower.hidden_size
    sizes = {
        "hidden_size": args.vision_width,
        "intermediate_size": tower.intermediate_size,
        "num_hidden_layers": args.vision_layers,
        "num_attention_heads": args.vision_heads,
    }
    siglip = SiglipConfig(
        vision_config={**tower.to_dict(), **sizes, "vision_use_head": True}, text_config={**sizes, **SIGLIP_TEXT}
    )
    text.dtype, siglip.dtype = torch.float16, torch.float32
    with torch.device("meta"):
        return PhiForCausalLM(text), SiglipModel(siglip)


def _model_shapes(language: PhiForCausalLM, vision: SiglipModel) -> dict[str, torch.Size]:
    """The shapes of the tensors of the model that `compose` will write."""
    tower = vision.config.vision_config.to_dict()
    tower |= {"num_hidden_layers": tower["num_hidden_layers"] - 1, "vision_use_head": False}
    config = FlashSlothConfig(
        text_config=language.config,
        vision_config=tower,
        query_hidden_size=tower["hidden_size"] // 2,
        query_num_heads=language.config.num_attention_heads,
    )
    return {name: torch.Size(shape) for name, shape in expected_shapes(config).items()}


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="flashsloth bench convert", description="Memory, time and disk of composing and converting."
    )
    tower, text = FlashSlothConfig().vision_config, FlashSlothConfig().text_config
    for name, value, unit in (
        ("text-width", text.hidden_size, "width of the decoder"),
        ("text-layers", text.num_hidden_layers, "layers of the decoder, 8 or more"),
        ("text-heads", text.num_attention_heads, "attention heads of the decoder"),
        ("vision-width", tower.hidden_size, "width of the vision tower"),
        ("vision-layers", tower.num_hidden_layers + 1, "layers of the vision tower, with the last, which is not used"),
        ("vision-heads", tower.num_attention_heads, "attention heads of the vision tower"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{unit} ({value})")
    parser.add_argument("--folder", metavar="DIR", help="place of the temporary folder (default: the system's)")
    args = parser.parse_args(argv)
    if not Path("/proc/self/status").is_file():
        parser.error("memory is measured from /proc, which this system does not have")
    return args
