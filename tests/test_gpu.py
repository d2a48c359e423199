# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What only a CUDA device shows: flash-attention, CUDA graphs, training in bfloat16 and on 4-bit weights, and the shipped
accelerate configs under `accelerate launch`.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from samples import QUICK_RUN, make_config, make_model, prepare, user

import flashsloth
from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.tiny.data import make_dataset
from flashsloth.tiny.scenes import make_scene, render
from flashsloth.train.config import read_config
from flashsloth.train.sft import train_stage


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROOT = Path(flashsloth.__file__).parent
CONFIGS = ROOT / "train" / "configs"
ON_GPU = [setting for setting in QUICK_RUN if setting not in ("use_cpu=true", "bf16=false")]
NEEDS = {"flash_attention_2": "flash_attn", "zero2": "deepspeed", "zero3": "deepspeed", "zero3_offload": "deepspeed"}


def skip_without(name: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")


@pytest.fixture(scope="module")
def questions():
    """One of each kind, some of them longer, and one without an image."""
    words = "large red circle at left, small blue star at right.\nWhat color is the star? Answer briefly."
    asked = ("What colour is the square?", "Read the word.", "How many shapes are there? Answer briefly.")
    shown = [[user(render(make_scene("validation", "ordinary", index)), text)] for index, text in enumerate(asked)]
    return [*shown, [user(Image.open(ROOT / "examples" / "scene.png"), asked[0])], [user(words)]]


def answers(model, processor, questions, **options) -> list[str]:
    inputs = prepare(processor, questions).to(model.device, dtype=model.dtype)
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False, **options)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def on_cpu(questions):
    """The answers that the shipped checkpoint gives on the CPU."""
    processor = FlashSlothProcessor.from_pretrained(SHIPPED_CHECKPOINT)
    model = FlashSlothForCausalLM.from_pretrained(SHIPPED_CHECKPOINT, dtype="float32").eval()
    return answers(model, processor, questions)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}], ids=["eager", "cuda graphs"])
def test_answers_are_those_of_the_cpu(questions, on_cpu, options):
    processor = FlashSlothProcessor.from_pretrained(SHIPPED_CHECKPOINT)
    model = FlashSlothForCausalLM.from_pretrained(SHIPPED_CHECKPOINT, dtype="float32", device_map="cuda").eval()
    assert answers(model, processor, questions, **options) == on_cpu


@pytest.mark.parametrize("backend", ["eager", "flex_attention", "flash_attention_2"])
def test_attention_backends_agree_in_bfloat16(processor, chats, tmp_path, backend):
    skip_without(backend)
    # flex_attention takes heads of 16 and more
    make_model(make_config(text_config={"hidden_size": 64}, vision_config={"hidden_size": 32})).save_pretrained(
        tmp_path
    )
    batch = prepare(processor, list(chats.values())).to("cuda")
    logits = []
    for name in ("sdpa", backend):
        model = FlashSlothForCausalLM.from_pretrained(
            tmp_path, attn_implementation=name, dtype=torch.bfloat16, device_map="cuda"
        )
        with torch.no_grad():
            logits.append(model.eval()(**batch).logits)
    for one, two, mask in zip(*logits, batch["attention_mask"].bool(), strict=True):
        assert F.cosine_similarity(one[mask].flatten().float(), two[mask].flatten().float(), dim=0) > 0.99


def stage_arguments(start, output, *overrides):
    model, data = start / "model", start / "data"
    return [f"model={model}", f"data={data}", f"output_dir={output}", "max_steps=3", *ON_GPU, *overrides]


def changed(start, folder) -> set[str]:
    """Parts that differ from the start by more than the precision that they were saved in: DeepSpeed's is bfloat16."""
    before, after = load_file(start / "model" / "model.safetensors"), load_file(folder / "model.safetensors")
    return {name.split(".")[1] for name, tensor in after.items() if not torch.equal(before[name].to(tensor), tensor)}


def test_hd_stage_trains_in_bfloat16(start, tmp_path):
    folder = train_stage(read_config(CONFIGS / "stage2_hd.yaml", stage_arguments(start, tmp_path, "bf16=true")))
    parts = {"vision_tower", "pooling", "multi_modal_projector", "query_tokens", "embedded_query", "language_model"}
    assert parts <= changed(start, folder)


def launch(config: str, *arguments: str) -> str:
    """`accelerate launch` with a shipped config, on one process; what it printed."""
    options = ["--num_processes", "1", "--config_file", str(CONFIGS / "accelerate" / f"{config}.yaml")]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "flashsloth", "train", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3", "zero3_offload"])
def test_shipped_accelerate_configs_train_and_go_on_after_a_stop(start, tmp_path, name):
    skip_without(name)
    run = tmp_path / "run"
    rates = ["learning_rate=1e-3", "max_steps=4", "save_steps=2"]
    arguments = [str(CONFIGS / "stage2.yaml"), *stage_arguments(start, run, *rates)]
    launch(name, *arguments)
    assert {"pooling", "embedded_query", "language_model"} <= changed(start, run / "model")
    assert "vision_tower" not in changed(start, run / "model")
    losses = logged_losses(run)
    for finished in ("model", "checkpoint-4"):
        shutil.rmtree(run / finished)
    assert "Resuming from" in launch(name, *arguments)
    assert logged_losses(run) == pytest.approx(losses, rel=1e-2)


def logged_losses(run: Path) -> list[float]:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    losses = [float(record["loss"]) for record in history if "loss" in record]
    assert len(losses) == 4
    return losses


def test_adapter_trains_on_a_base_of_four_bits(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    make_dataset("questions", "train", 12).save_to_disk(tmp_path / "data")
    arguments = [f"model={SHIPPED_CHECKPOINT}", *stage_arguments(tmp_path, tmp_path / "run")[1:]]
    folder = train_stage(read_config(CONFIGS / "qlora.yaml", arguments))
    base = FlashSlothForCausalLM.from_pretrained(SHIPPED_CHECKPOINT, dtype="float32", device_map="cuda")
    adapter = PeftModel.from_pretrained(base, folder).eval()
    assert any(weight.abs().sum() > 0 for name, weight in adapter.named_parameters() if "lora_B" in name)
