# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The trainer: the groups of its optimizer, what it logs, and its checkpoints."""

import json

import pytest
import torch
from safetensors.torch import load_file
from samples import make_model
from stages import run, settings
from transformers import AutoModelForImageTextToText

from flashsloth import FlashSlothProcessor
from flashsloth.train.data.sources import load_data
from flashsloth.train.model import select_trainable
from flashsloth.train.trainer import FlashSlothTrainer


def make_trainer(start, output, learning_rates, *overrides):
    stage = settings("stage2", start, output, "weight_decay=0.1", *overrides)
    model = make_model()
    select_trainable(model, stage.trainable)
    return FlashSlothTrainer(
        model,
        stage,
        train_dataset=load_data(stage.data, 0),
        processing_class=FlashSlothProcessor.from_pretrained(start / "model"),
        learning_rates=learning_rates,
    )


def test_optimizer_groups(start, tmp_path):
    rates = {"model.language_model": 1e-5, "model.language_model.embed_tokens": 1e-6}
    trainer = make_trainer(start, tmp_path, rates)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    group_of = {names[id(p)]: g for g in trainer.create_optimizer().param_groups for p in g["params"]}
    assert group_of.keys() == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert group_of["model.pooling.fc1.weight"]["lr"] == 2e-5
    assert group_of["model.language_model.layers.0.mlp.fc1.weight"]["lr"] == 1e-5
    assert group_of["model.language_model.embed_tokens.weight"]["lr"] == 1e-6
    undecayed = {name for name, group in group_of.items() if group["weight_decay"] == 0}
    assert "model.query_tokens.weight" in undecayed
    assert all(name in undecayed for name in group_of if name.endswith("bias") or "norm" in name)
    assert group_of["lm_head.weight"]["weight_decay"] == 0.1


def test_query_tokens_are_not_decayed_without_own_rates_either(start, tmp_path):
    trainer = make_trainer(start, tmp_path, {})
    undecayed = [p for g in trainer.create_optimizer().param_groups if g["weight_decay"] == 0 for p in g["params"]]
    assert any(p is trainer.model.model.query_tokens.weight for p in undecayed)


def test_learning_rate_of_a_module_that_does_not_train(start, tmp_path):
    with pytest.raises(ValueError, match="'model.vision_tower', but no parameter of such a module is trained"):
        make_trainer(start, tmp_path, {"model.vision_tower": 1e-5}).create_optimizer()
    with pytest.raises(ValueError, match="'model.poling', but .*; the closest trained module is 'model.pooling'"):
        run("stage2", start, tmp_path, "learning_rates={model.poling: 1e-5}")
    lora = ("trainable=[]", "lora={modules_to_save: [model.pooling]}")
    with pytest.raises(
        ValueError, match="'model.vision_tower', but .*; the closest trained module is 'model.pooling'"
    ):
        run("stage2", start, tmp_path, *lora, "learning_rates={model.vision_tower: 1e-5}")


def test_log_has_speed_memory_and_time_left(finished):
    history = json.loads((finished / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    for entry in steps:
        assert 0 < entry["visual_tokens_per_second"] < entry["tokens_per_second"]
        assert 0.01 < entry["peak_memory_gb"] < 64
        assert entry["grad_norm"] > 0
        assert entry["learning_rate/model.pooling"] / entry["learning_rate"] == pytest.approx(1e-3 / 2e-5)
    assert steps[0]["time_left"] > steps[-1]["time_left"] == 0


def test_checkpoints_are_complete_folders(finished, chats):
    folders = sorted(folder.name for folder in finished.glob("checkpoint-*"))
    assert folders == ["checkpoint-2", "checkpoint-3"]  # save_total_limit: 2
    last, model = (
        load_file(finished / "checkpoint-3/model.safetensors"),
        load_file(finished / "model/model.safetensors"),
    )
    assert all(torch.equal(last[key], model[key]) for key in model)
    # By the code in the folder, not by the installed package.
    model = AutoModelForImageTextToText.from_pretrained(finished / "checkpoint-2", trust_remote_code=True)
    processor = FlashSlothProcessor.from_pretrained(finished / "checkpoint-2")
    assert model.generation_config.suppress_tokens
    assert processor.chat_template
    assert (finished / "checkpoint-2" / "modeling_flashsloth.py").is_file()


def test_data_without_lengths_names_the_remedy(start, tmp_path):
    trainer = make_trainer(start, tmp_path, {})
    trainer.train_dataset = trainer.train_dataset.remove_columns(["length", "num_images"])
    with pytest.raises(ValueError, match="no column length and num_images to group .*train_sampling_strategy=random"):
        trainer.get_train_dataloader()


@pytest.mark.parametrize("strategy", ["sequential", "random", "group_by_length"])
def test_every_strategy_trains_on_each_row_once_an_epoch(strategy, start, tmp_path):
    trainer = make_trainer(start, tmp_path, {}, f"train_sampling_strategy={strategy}")
    ids = trainer.train_dataset["id"][:]
    trainer.data_collator = lambda rows: torch.tensor([ids.index(row["id"]) for row in rows])
    order = torch.cat(list(trainer.get_train_dataloader())).tolist()
    assert sorted(order) == list(range(12))
    assert (order == list(range(12))) == (strategy == "sequential")
