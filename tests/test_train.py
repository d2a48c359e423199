# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The trainer: settings, what trains in which stage, what the loss sees, and going on after a stop."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import make_model
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

import flashsloth
from flashsloth import FlashSlothProcessor
from flashsloth.train.optimizers import MuonWithAdamW
from flashsloth.train.sft import main, parameter_groups, read_config, select_trainable, train_stage
from flashsloth.train.tiny.data import make_dataset


CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs"
STAGES = {
    "tiny_stage1": {"model.pooling", "model.multi_modal_projector"},
    "tiny_stage2": {
        "model.pooling",
        "model.multi_modal_projector",
        "model.query_tokens",
        "model.embedded_query",
        "model.language_model",
        "lm_head",
    },
    "tiny_hd": {
        "model.vision_tower",
        "model.pooling",
        "model.multi_modal_projector",
        "model.query_tokens",
        "model.embedded_query",
        "model.language_model",
        "lm_head",
    },
}


@pytest.fixture(scope="module")
def start(tmp_path_factory, processor):
    """Folders of a random model and of a few conversations."""
    folder = tmp_path_factory.mktemp("start")
    make_model().save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    make_dataset("questions", "train", 12).save_to_disk(folder / "data")
    return folder


def run(name, start, output, *overrides):
    """Three steps of a stage's shipped settings, on the random model."""
    stage, config = read_config(
        CONFIGS / f"{name}.yaml",
        [
            f"model={start / 'model'}",
            f"dataset={start / 'data'}",
            f"output_dir={output}",
            "max_steps=3",
            "per_device_train_batch_size=2",
            "dataloader_num_workers=0",
            "warmup_steps=0",
            "disable_tqdm=true",
            *overrides,
        ],
    )
    return train_stage(stage, config)


def part_of(name):
    return ".".join(name.split(".")[: 2 if name.startswith("model.") else 1])


@pytest.mark.parametrize("name", STAGES)
def test_exactly_the_parameters_of_the_stage_change(name, start, tmp_path):
    before = load_file(start / "model" / "model.safetensors")
    after = load_file(run(name, start, tmp_path) / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {part_of(key) for key in changed} == STAGES[name]
    # Attention is blind to what its key bias adds to all scores alike, and to padding and unused tokens.
    unmoved = {key for key in before if part_of(key) in STAGES[name]} - changed
    assert not [key for key in unmoved if not key.endswith("k_proj.bias")]


def test_a_stopped_run_goes_on_and_ends_the_same(start, tmp_path):
    whole = run("tiny_stage2", start, tmp_path / "whole", "save_steps=2")

    class StopAfterTwo(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    original = SFTTrainer.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SFTTrainer, "__init__", lambda self, *a, **k: original(self, *a, callbacks=[StopAfterTwo()], **k)
        )
        with pytest.raises(KeyboardInterrupt):
            run("tiny_stage2", start, tmp_path / "parts", "save_steps=2")
    assert not (tmp_path / "parts" / "model").exists()
    parts = run("tiny_stage2", start, tmp_path / "parts", "save_steps=2")
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_finished_stage_is_not_trained_again(start, tmp_path):
    finished = run("tiny_stage1", start, tmp_path)
    written = (finished / "model.safetensors").stat().st_mtime_ns
    assert run("tiny_stage1", start, tmp_path) == finished
    assert (finished / "model.safetensors").stat().st_mtime_ns == written


def test_hd_stage_saves_an_hd_processor(start, tmp_path):
    folder = run("tiny_hd", start, tmp_path, "max_steps=1")
    assert FlashSlothProcessor.from_pretrained(folder).image_processor.hd


def test_loss_sees_answers_and_their_end_only(processor):
    rows = [dict(row) for row in make_dataset("questions", "train", 4)]
    expected = [[m["content"][-1]["text"] for m in row["messages"] if m["role"] == "assistant"] for row in rows]
    collator = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)
    for labels, answers in zip(collator(rows)["labels"], expected, strict=True):
        assert processor.tokenizer.decode(labels[labels != -100]) == "".join(f" {answer}</s>" for answer in answers)


def write(path, **settings):
    path.write_text(yaml.safe_dump(settings))
    return path


def test_unknown_key_names_the_closest(tmp_path):
    with pytest.raises(ValueError, match="'learning_rat'; the closest known one is 'learning_rate'"):
        read_config(CONFIGS / "tiny_stage1.yaml", ["learning_rat=1"])


def test_missing_key_and_broken_override(tmp_path):
    with pytest.raises(ValueError, match="lacks the key 'dataset'"):
        read_config(write(tmp_path / "a.yaml", model="m", trainable=[], output_dir="o"), [])
    with pytest.raises(ValueError, match="write key=value"):
        read_config(CONFIGS / "tiny_stage1.yaml", ["bf16"])
    with pytest.raises(ValueError, match="optimizer is 'lion'"):
        read_config(CONFIGS / "tiny_stage1.yaml", ["optimizer=lion"])


def test_bad_settings_end_the_command_with_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(CONFIGS / "tiny_stage1.yaml"), "bf17=true"])
    assert "the closest known one is 'bf16'" in capsys.readouterr().err


def test_unknown_module_names_the_closest(model):
    with pytest.raises(ValueError, match="no such module; the closest is 'model.pooling'"):
        select_trainable(model, ["model.poolin"])


def test_parameter_groups_count_what_trains(model):
    select_trainable(model, ["model.pooling"])
    groups = {part: (trainable, total) for part, trainable, total in parameter_groups(model)}
    assert groups["model.pooling"][0] == groups["model.pooling"][1] > 0
    assert groups["lm_head"][0] == 0 < groups["lm_head"][1]
    assert sum(total for _, total in groups.values()) == sum(p.numel() for p in model.parameters())


def test_muon_takes_matrices_and_adamw_the_rest():
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(4, 4), "embed_tokens": torch.nn.Embedding(4, 4)})
    optimizer = MuonWithAdamW(model.named_parameters(), lr=0.1)
    [matrices] = [group["params"] for group in optimizer.muon.param_groups]
    assert [id(p) for p in matrices] == [id(model["layer"].weight)]
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.5
    assert optimizer.muon.param_groups[0]["lr"] == 0.5
