# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The YAML file of a stage: what it may say, and what it says back."""

from pathlib import Path

import pytest
import torch

import flashsloth
from flashsloth.train.config import DataSource, LoraSettings, accumulation_steps, read_config


CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs"
MINIMAL = "{model: m, data: rows.json, output_dir: out, trainable: [lm_head], use_cpu: true, report_to: none}"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "stage.yaml"
    path.write_text(MINIMAL)
    return path


def test_defaults_learn_answers_only_and_cut_nothing(file):
    stage, config = read_config(file, [])
    assert stage.data == [DataSource("rows.json")]
    assert config.max_length is None
    assert config.assistant_only_loss
    assert config.train_sampling_strategy == "group_by_length"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{path: a.json, image_folder: pictures}", [DataSource("a.json", image_folder="pictures")]),
        ("[a.json, {path: b, weight: 2}]", [DataSource("a.json"), DataSource("b", weight=2)]),
    ],
)
def test_data_is_one_source_or_a_list(file, data, expected):
    assert read_config(file, [f"data={data}"])[0].data == expected


def test_exponents_are_numbers(file):
    stage, config = read_config(file, ["learning_rate=2e-5", "learning_rates={model.pooling: 1e-3}"])
    assert config.learning_rate == 2e-5
    assert stage.learning_rates == {"model.pooling": 1e-3}


def test_no_is_a_strategy_and_no_elsewhere_is_false(file):
    _, config = read_config(file, ["save_strategy=no", "eval_strategy=no", "dataloader_drop_last=no"])
    assert (config.save_strategy, config.eval_strategy, config.dataloader_drop_last) == ("no", "no", False)


def test_what_the_libraries_take_beside_what_they_annotate(file):
    assert read_config(file, ["fsdp_config={version: 2}", "debug=[]"])[1].fsdp_config["version"] == 2


def test_whole_numbers_are_numbers_and_names_are_lists(file):
    lora = "lora={parts: model.vision_tower, modules_to_save: lm_head}"
    stage, config = read_config(file, ["learning_rate=1", "warmup_steps=0", "trainable=[]", lora])
    assert (config.learning_rate, config.warmup_steps) == (1, 0)
    assert stage.lora == LoraSettings(["model.vision_tower"], alpha=32, modules_to_save=["lm_head"])
    assert read_config(file, ["trainable=[]", "lora={}"])[0].lora.parts == ["model.language_model"]
    with pytest.raises(ValueError, match="optimizer muon is for the model's own matrices"):
        read_config(file, ["trainable=[]", "lora={}", "optimizer=muon"])


@pytest.mark.parametrize(
    ("capabilities", "bf16"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_bf16_is_the_default_where_the_device_is_fast_at_it(file, capabilities, bf16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert read_config(file, [])[1].bf16 == bf16
    assert read_config(file, ["bf16=true"])[1].bf16
    assert not read_config(file, ["bf16=false"])[1].bf16


@pytest.mark.parametrize("processes", [1, 4])
def test_accumulation_follows_from_the_global_batch(file, processes):
    config = read_config(file, ["global_batch_size=128", "per_device_train_batch_size=8"], processes)[1]
    assert config.gradient_accumulation_steps == 16 / processes


@pytest.mark.parametrize(("size", "nearest"), [(100, "96 or 128$"), (31, "32$")])
def test_sizes_that_do_not_divide_name_the_nearest(size, nearest):
    with pytest.raises(ValueError, match=nearest):
        accumulation_steps(size, 8, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "unknown key 'learning_rat'; the closest known one is 'learning_rate'"),
        ("data={path: a, image_foldr: b}", "data in .* unknown key 'image_foldr'; .* 'image_folder'"),
        ("lora={rank: 8}", "lora in .* unknown key 'rank'"),
        ("data=[]", "is empty"),
        ("data={image_folder: b}", "a source without a path"),
        ("data={path: a, weight: 0}", "weight of a is 0"),
        ("optimizer=lion", "optimizer is 'lion'; choose one of adamw, muon"),
        ("on_broken_rows=ignore", "on_broken_rows is 'ignore'; choose one of stop, skip"),
        ("quantization=nf4", "quantization needs lora"),
        ("lora={r: 8}", "both `trainable` and `lora`"),
        ("trainable=[]", "neither `trainable` nor `lora`"),
        ("gradient_accumulation_steps=4", "it follows from global_batch_size"),
        ("assistant_only_loss=false", "always all that is learned"),
        ("model=", "lacks the key 'model'"),
        ("bf16", "write key=value"),
        ("hd=maybe", "'hd' expected bool, got str"),
        ("model=5", "'model' expected str, got int"),
        ("trainable=[5]", "Invalid item at index 0 in list 'trainable'"),
        ("learning_rates=5", "'learning_rates' expected a dict"),
        ("learning_rates={model.pooling: fast}", "'learning_rates'"),
        ("data={path: 5}", "data in .* 'path' expected str, got int"),
        ("data={path: a, weight: heavy}", "data in .* 'weight'"),
        ("data={path: a, streaming: maybe}", "data in .* 'streaming'"),
        ("global_batch_size=many", "'global_batch_size'"),
        ("global_batch_size=0", "global_batch_size is 0: it has to be a number of rows"),
        ("per_device_train_batch_size=0", "per_device_train_batch_size is 0"),
        ("learning_rate=abc", "'learning_rate' expected "),
        ("learning_rate=", "'learning_rate' expected "),
        ("max_length=abc", "'max_length'"),
        ("seed=1.5", "'seed' expected int, got float"),
        ("gradient_checkpointing=maybe", "'gradient_checkpointing' expected bool, got str"),
        ("lr_scheduler_type=5", "'lr_scheduler_type'"),
        ("lora={r: abc}", "lora in .* 'r' expected int, got str"),
        ("lora={parts: [5]}", "lora in .* 'parts'"),
        ("lora={parts: []}", r"lora parts is \[\]: it names the modules that get an adapter"),
        ("lora={r: 0}", "lora r is 0: it has to be 1 or more"),
        ("lora={dropout: 1}", "lora dropout is 1: it has to be 0 or more, and below 1"),
        ("lora={alpha: 0}", "lora alpha is 0: it has to be above 0"),
        ("lora={alpha: .inf}", "lora alpha is inf: it has to be above 0, and finite"),
        ("data={path: a, weight: .inf}", "weight of a is inf"),
        ("learning_rates={lm_head: -1}", "learning_rates of lm_head in .* is -1: it has to be a finite number"),
        ("learning_rate=.inf", "learning_rate in .* is inf"),
        ("max_grad_norm=.nan", "max_grad_norm in .* is nan"),
        ("num_train_epochs=0", "num_train_epochs in .* is 0: there would be nothing to train"),
        ("max_length=0", "max_length in .* is 0: it has to be a number of tokens"),
        ("train_sampling_strategy=foo", "choose one of group_by_length, random, sequential"),
        ("lr_scheduler_type=cosin", "settings that are not possible: .*cosin"),
        ("lr_scheduler_kwargs={foo: 1}", "lr_scheduler_kwargs in .* do not fit lr_scheduler_type 'linear'"),
        ("lr_scheduler_kwargs=foo", "'lr_scheduler_kwargs'"),
        ("gradient_checkpointing_kwargs=foo", "'gradient_checkpointing_kwargs'"),
        ("logging_steps=.inf", "logging_steps in .* is inf"),
        ("save_only_model=true", "not for you to set: a run that was stopped could not go on"),
        ("auto_find_batch_size=true", "it would change how many rows a step takes"),
        ("accelerator_config={split_batches: true}", "accelerator_config, which is not for you to set"),
        ("ignore_data_skip=true", "not for you to set"),
        ("resume_from_checkpoint=x", "not for you to set"),
        ("packing=true", "rows with images cannot be packed"),
        ("eval_strategy=steps", "has no data to evaluate on"),
        ("seed=-1", "seed in .* is -1"),
        ("dataloader_persistent_workers=true", "needs dataloader_num_workers above 0"),
        ("output_dir=''", "lacks the key 'output_dir'"),
        ("lora=16", "lora in .* is 16: it holds settings"),
    ],
)
def test_bad_settings_are_named(file, override, message):
    with pytest.raises(ValueError, match=message):
        read_config(file, [override])


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2_hd"])
def test_shipped_configs_hold_the_published_schedule(name):
    stage, config = read_config(CONFIGS / f"{name}.yaml", ["use_cpu=true"], world_size=8)
    assert config.per_device_train_batch_size * 8 * config.gradient_accumulation_steps == stage.global_batch_size
    assert (stage.global_batch_size, config.learning_rate) == ((256, 1e-3) if name == "stage1" else (128, 2e-5))
    assert config.get_warmup_steps(1000) == 30
    assert stage.hd == ("model.vision_tower" in stage.trainable) == (name == "stage2_hd")
