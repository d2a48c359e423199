# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How much memory, time and disk `flashsloth compose` and `flashsloth convert` take at the published size.

    flashsloth bench convert
    flashsloth bench convert --folder /mnt/large

The backbones are written first, with random weights: a Phi-2 in float16 and a whole SigLIP so400m in float32, sharded
as their repositories on the Hub. Then each command runs in a process of its own: compose makes a model of them,
`convert --to-original` brings it into the published layout, and convert brings it back, which must give the same
bytes. All of it lies in a temporary folder, which needs about 20 GB and is removed in the end.

Peak memory is the process's own, `RssAnon` and `RssShmem` of /proc/PID/status, read every few milliseconds; pages that
belong to files, which the system drops when it needs room, do not count. The last line of standard output is one JSON
object.
"""

import argparse
import filecmp
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PhiForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from flashsloth import FlashSlothConfig
from flashsloth.bench.inference import WEIGHT_STD, cpu_name, log
from flashsloth.convert.published_tokenizer import PUBLISHED_PAD_TOKEN
from flashsloth.folders.model_folder import expected_shapes
from flashsloth.folders.tensors import LazyTensor, write_tensors


SAMPLE_SECONDS = 0.005
SPARE_BYTES = 1_000_000_000  # of the disk, for tokenizers and whatever else is written meanwhile

# What the text half of SigLIP so400m has beside the sizes of the vision half
# (https://huggingface.co/google/siglip-so400m-patch14-384); compose passes it over.
SIGLIP_TEXT = {"vocab_size": 32000, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    language, vision = _backbones(args)
    parameters = sum(shape.numel() for shape in _model_shapes(language, vision).values())
    model_bytes = parameters * torch.bfloat16.itemsize
    input_bytes = sum(weight_bytes(tensors) for tensors in (random_weights(language), random_weights(vision)))
    with tempfile.TemporaryDirectory(prefix="flashsloth-bench-", dir=args.folder) as name:
        folder = Path(name)
        needed, free = max(input_bytes + model_bytes, 3 * model_bytes) + SPARE_BYTES, shutil.disk_usage(folder).free
        log(f"This needs {needed / 1e9:.1f} GB of disk in {folder.parent}, which has {free / 1e9:.1f} GB free")
        if needed > free:
            raise ValueError(
                f"{folder.parent} has {free / 1e9:.1f} GB free, but the benchmark needs {needed / 1e9:.1f} GB. Name "
                "another place with --folder."
            )
        for model, part in ((language, "language"), (vision, "vision")):
            write_backbone(model, folder / part)
        _tokenizer().save_pretrained(folder / "language")
        names = ["--language-model", folder / "language", "--vision-model", folder / "vision", "--dtype", "bfloat16"]
        results = {"compose": run_cli(folder / "composed", "compose", *names)}
        for file in folder.glob("*/model*.safetensors"):
            if file.parent.name in ("language", "vision"):
                file.unlink()
        results["convert --to-original"] = run_cli(
            folder / "original", "convert", "--to-original", folder / "composed"
        )
        config = folder / "vision" / "config.json"
        results["convert"] = run_cli(folder / "back", "convert", folder / "original", "--vision-config", config)
        files = [file.name for file in (folder / "composed").glob("*.safetensors")]
        _, differing, missing = filecmp.cmpfiles(folder / "composed", folder / "back", files, shallow=False)
    report = {
        "benchmark": "conversion",
        "date": date.today().isoformat(),
        "parameters": parameters,
        "dtype": "bfloat16",
        "device": cpu_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "results": results,
        "peak_memory_gb": max(result["peak_memory_gb"] for result in results.values()),
        "same_bytes_after_return": not differing and not missing,
    }
    _print_table(results)
    print(json.dumps(report))


def _backbones(args: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The two models without memory for their weights, in the proportions of the published ones."""
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
    """Of the model that compose will make."""
    tower = vision.config.vision_config.to_dict()
    tower |= {"num_hidden_layers": tower["num_hidden_layers"] - 1, "vision_use_head": False}
    config = FlashSlothConfig(
        text_config=language.config,
        vision_config=tower,
        query_hidden_size=tower["hidden_size"] // 2,
        query_num_heads=language.config.num_attention_heads,
    )
    return {name: torch.Size(shape) for name, shape in expected_shapes(config).items()}


def random_weights(model: PreTrainedModel) -> dict[str, LazyTensor]:
    """Random weights, each made when it is written."""
    dtype = model.config.dtype

    def random(shape):
        return torch.empty(shape).normal_(std=WEIGHT_STD).to(dtype)

    return {
        name: LazyTensor(tuple(tensor.shape), dtype, lambda shape=tensor.shape: random(shape))
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }


def write_backbone(model: PreTrainedModel, folder: Path) -> None:
    folder.mkdir()
    model.config.save_pretrained(folder)
    torch.manual_seed(0)
    write_tensors(random_weights(model), folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """One of bytes, with as many entries as Phi-2's, and its ids where the published layout depends on them."""
    published = FlashSlothConfig()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "."), ("U", "S"), ("US", "E"), ("USE", "R")]
    words = {published.query_base_token_id: "Ġ.", published.bos_token_id: PUBLISHED_PAD_TOKEN}
    others = [*alphabet, *("".join(pair) for pair in merges[1:])]
    for index in range(published.query_slot_token_id):
        if index not in words:
            words[index] = others.pop(0) if others else f"<unused_{index}>"
    backend = Tokenizer(models.BPE(vocab={word: index for index, word in words.items()}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=PUBLISHED_PAD_TOKEN)


def run_cli(dst: Path, *words) -> dict[str, float]:
    """Runs a command that writes `dst`, and watches its memory."""
    command = [sys.executable, "-m", "flashsloth", *map(str, words), str(dst)]
    log(f"flashsloth {' '.join(command[3:])}")
    peak, start = 0, time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _own_memory(process.pid))
            time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{words[0]} failed with status {process.returncode}; its messages are above")
    return {
        "peak_memory_gb": round(peak / 1e9, 3),
        "wall_s": round(seconds, 1),
        "written_gb": round(sum(file.stat().st_size for file in dst.iterdir()) / 1e9, 3),
    }


def _own_memory(pid: int) -> int:
    """Bytes of a process that belong to no file; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(kilobytes) * 1024 for kilobytes in re.findall(r"^Rss(?:Anon|Shmem):\s*(\d+) kB", status, re.M))


def weight_bytes(tensors: Mapping[str, LazyTensor]) -> int:
    return sum(tensor.num_bytes for tensor in tensors.values())


def _print_table(results: dict[str, dict[str, float]]) -> None:
    print(f"| | {' | '.join(results)} |\n| --- |{' ---: |' * len(results)}")
    for key in results["compose"]:
        print(f"| {key} | {' | '.join(str(result[key]) for result in results.values())} |")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="flashsloth bench convert", description="Memory, time and disk of composing and converting."
    )
    tower, text = FlashSlothConfig().vision_config, FlashSlothConfig().text_config
    for name, value, unit in (
        ("text-width", text.hidden_size, "channels of the decoder"),
        ("text-layers", text.num_hidden_layers, "its layers, 8 or more"),
        ("text-heads", text.num_attention_heads, "its attention heads"),
        ("vision-width", tower.hidden_size, "channels of the vision tower"),
        ("vision-layers", tower.num_hidden_layers + 1, "its layers, with the last, which is not used"),
        ("vision-heads", tower.num_attention_heads, "its attention heads"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{unit} ({value})")
    parser.add_argument("--folder", metavar="DIR", help="where to put the temporary folder; the system's if unset")
    args = parser.parse_args(argv)
    if not Path("/proc/self/status").is_file():
        parser.error("memory is measured from /proc, which this system does not have")
    return args
