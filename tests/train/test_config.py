# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The settings of a stage: from its YAML file and the command line, their defaults, and values that are refused."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from trl import SFTConfig

import flashsloth
from flashsloth import cli
from flashsloth.train.config import DataSource, LoraSettings, StageConfig, accumulation_steps, read_config


CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs"


def test_defaults_learn_answers_only_and_cut_nothing(file):
    stage = read_config(file, [])
    assert isinstance(stage, SFTConfig)
    assert stage.data == [DataSource("rows.json")]
    assert stage.max_length is None
    assert stage.assistant_only_loss
    assert stage.train_sampling_strategy == "group_by_length"


def test_a_stage_may_be_written_in_python(tmp_path):
    settings = {"model": "m", "data": [DataSource("rows.json")], "output_dir": str(tmp_path), "use_cpu": True}
    stage = StageConfig(**settings, trainable=["lm_head"], global_batch_size=16, per_device_train_batch_size=4)
    assert stage.gradient_accumulation_steps == 4
    with pytest.raises(ValueError, match="learning_rate is 'abc': it must be of type float | int"):
        StageConfig(**settings, trainable=["lm_head"], learning_rate="abc")
    with pytest.raises(ValueError, match="neither `trainable` nor `lora`"):
        StageConfig(**settings)


def test_reporting_tools_get_values_that_json_knows(file):
    stage = read_config(file, ["trainable=[]", "lora.r=8", "data.0.weight=2"])
    settings = json.loads(stage.to_json_string())
    assert (settings["data"][0]["weight"], settings["lora"]["r"], settings["seed"]) == (2, 8, 42)


@pytest.mark.parametrize("override", ["fsdp=true", "fsdp=full_shard", "debug=[]", "debug=underflow_overflow"])
def test_values_that_the_libraries_take_beside_their_annotations(file, override):
    assert read_config(file, ["fsdp_config={version: 2}", override]).fsdp_config["version"] == 2


def test_whole_numbers_are_numbers_and_names_are_lists(file):
    lora = "lora={parts: model.vision_tower, modules_to_save: lm_head}"
    stage = read_config(file, ["learning_rate=1", "warmup_steps=0", "trainable=[]", lora])
    assert (stage.learning_rate, stage.warmup_steps) == (1, 0)
    assert stage.lora == LoraSettings(["model.vision_tower"], alpha=32, modules_to_save=["lm_head"])
    assert read_config(file, ["trainable=[]", "lora={}"]).lora.parts == ["model.language_model"]
    with pytest.raises(ValueError, match="optimizer muon is for the model's own matrices"):
        read_config(file, ["trainable=[]", "lora={}", "optimizer=muon"])


# Values that follow from others, and values that are not possible


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
    assert read_config(file, []).bf16 == bf16
    assert read_config(file, ["bf16=true"]).bf16
    assert not read_config(file, ["bf16=false"]).bf16


@pytest.mark.parametrize("num_processes", [1, 4])
def test_accumulation_follows_from_the_global_batch(file, num_processes):
    overrides = ["global_batch_size=128", "per_device_train_batch_size=8"]
    assert read_config(file, overrides, num_processes).gradient_accumulation_steps == 16 / num_processes


@pytest.mark.parametrize(("size", "nearest"), [(100, "96 or 128$"), (31, "32$")])
def test_sizes_that_do_not_divide_name_the_nearest(size, nearest):
    with pytest.raises(ValueError, match=nearest):
        accumulation_steps(size, 8, 4)


BAD_SETTINGS = [
    ("learning_rat=1", "unknown key 'learning_rat'; the closest known one is 'learning_rate'"),
    ("data={path: a, image_foldr: b}", "data in .* unknown key 'image_foldr'; .* 'image_folder'"),
    ("lora={rank: 8}", "lora in .* unknown key 'rank'"),
    ("data=[]", "is empty"),
    ("data={image_folder: b}", "a source without a path"),
    ("data={path: a, weight: 0}", "weight of a is 0"),
    ("optimizer=lion", r"optimizer is 'lion': it must be of type Literal\['adamw', 'muon'\]"),
    ("on_broken_rows=ignore", r"on_broken_rows is 'ignore': .* Literal\['stop', 'skip'\]"),
    ("quantization=int8", r"quantization is 'int8': .*Literal\['nf4'\]"),
    ("quantization=nf4", "quantization needs lora"),
    ("lora={r: 8}", "both `trainable` and `lora`"),
    ("trainable=[]", "neither `trainable` nor `lora`"),
    ("gradient_accumulation_steps=4", "it follows from global_batch_size"),
    ("assistant_only_loss=false", "the loss always covers the answers"),
    ("model=", "lacks the key 'model'"),
    ("bf16", "write key=value"),
    ("hd=maybe", "hd is 'maybe': it must be of type bool"),
    ("model=5", "model is 5: it must be of type str"),
    ("trainable=[5]", r"trainable is \[5\]: it must be of type list\[str\]"),
    ("learning_rates=5", r"learning_rates is 5: it must be of type dict\[str, float | int\]"),
    (
        "learning_rates={model.pooling: fast}",
        "learning_rates is {'model.pooling': 'fast'}: it must be of type dict",
    ),
    ("data={path: 5}", "data in .* 'path' expected str, got int"),
    ("data={path: a, weight: heavy}", "data in .* 'weight'"),
    ("data={path: a, streaming: maybe}", "data in .* 'streaming'"),
    ("global_batch_size=many", "global_batch_size is 'many': it must be of type int | None"),
    ("global_batch_size=0", "global_batch_size is 0: it has to be a number of rows"),
    ("per_device_train_batch_size=0", "per_device_train_batch_size is 0"),
    ("learning_rate=abc", "learning_rate is 'abc': it must be of type float | int"),
    ("learning_rate=", "learning_rate is None: it must be of type float | int"),
    ("max_length=abc", "max_length is 'abc': it must be of type int | None"),
    ("max_steps=1.5", "max_steps is 1.5: it must be of type int"),
    ("seed=abc", "seed is 'abc': it must be of type int"),
    ("seed=true", "seed is True: it must be of type int"),
    ("seed=1.5", "seed is 1.5: it must be of type int"),
    ("gradient_checkpointing=maybe", "gradient_checkpointing is 'maybe': it must be of type bool"),
    ("lr_scheduler_type=5", "lr_scheduler_type is 5: it must be of type .*SchedulerType | str"),
    ("lora={r: abc}", "lora in .* 'r' expected int, got str"),
    ("lora={parts: [5]}", "lora in .* 'parts'"),
    ("lora={parts: []}", r"lora parts is \[\]: it names the modules that get an adapter"),
    ("lora={r: 0}", "lora r is 0: it has to be 1 or more"),
    ("lora={dropout: 1}", "lora dropout is 1: it has to be 0 or more, and below 1"),
    ("lora={alpha: 0}", "lora alpha is 0: it has to be above 0"),
    ("lora={alpha: .inf}", "lora alpha is inf: it has to be above 0, and finite"),
    ("data={path: a, weight: .inf}", "weight of a is inf"),
    ("learning_rates={lm_head: -1}", "learning_rates of lm_head is -1: it has to be a finite number"),
    ("learning_rate=.inf", "learning_rate is inf"),
    ("max_grad_norm=.nan", "max_grad_norm is nan"),
    ("num_train_epochs=0", "num_train_epochs is 0: there would be nothing to train"),
    ("max_length=0", "max_length is 0: it has to be a number of tokens"),
    (
        "train_sampling_strategy=foo",
        "train_sampling_strategy is 'foo': .*'group_by_length', 'random', 'sequential'",
    ),
    ("train_sampling_strategy=no", "train_sampling_strategy is 'no'"),
    ("lr_scheduler_type=cosin", "cosin is not a valid SchedulerType, please select one of .*'cosine'"),
    ("lr_scheduler_kwargs={foo: 1}", "lr_scheduler_kwargs do not fit lr_scheduler_type 'linear'"),
    ("lr_scheduler_kwargs=foo", "lr_scheduler_kwargs is 'foo': it must be of type dict"),
    ("gradient_checkpointing_kwargs=foo", "gradient_checkpointing_kwargs is 'foo': it must be of type dict"),
    ("logging_steps=.inf", "logging_steps is inf"),
    ("save_only_model=true", "cannot be set: a run that was stopped could not be resumed"),
    ("auto_find_batch_size=true", "it would change how many rows a step takes"),
    ("accelerator_config={split_batches: true}", "accelerator_config, which cannot be set"),
    ("ignore_data_skip=true", "cannot be set"),
    ("resume_from_checkpoint=x", "cannot be set"),
    ("packing=true", "rows with images cannot be packed"),
    ("eval_strategy=steps", "has no data to evaluate on"),
    ("seed=-1", "seed is -1"),
    ("dataloader_persistent_workers=true", "needs dataloader_num_workers above 0"),
    ("output_dir=''", "lacks the key 'output_dir'"),
    ("do_train=false", "sets do_train=false, but a run trains"),
    ("eos_token=x", "eos_token is set, but it has no effect"),
    ("pad_token=x", "pad_token is set, but it has no effect"),
    ("label_names=[x]", "label_names is set, but it has no effect"),
    ("adam_beta1=2", "adam_beta1 is 2: it has to be 0 or more, and below 1"),
    ("adam_beta2=1", "adam_beta2 is 1: it has to be 0 or more, and below 1"),
    ("adam_epsilon=0", "adam_epsilon is 0: it has to be above 0"),
    ("weight_decay=-1", "weight_decay is -1"),
    ("label_smoothing_factor=2", "label_smoothing_factor is 2: it has to be from 0 to 1"),
    ("lora=16", "lora in .* is 16: it holds settings"),
]
BAD_INPUT = {override: (override, message) for override, message in BAD_SETTINGS} | {
    "push_to_hub": (
        "push_to_hub=true",
        "push_to_hub is set, .* model by `flashsloth push out/model OWNER/NAME --private`",
    ),
    "hub_model_id": ("hub_model_id=owner/name", "hub_model_id is set, but a run publishes nothing"),
    "hub_strategy": ("hub_strategy=all_checkpoints", "hub_strategy is set"),
    "hub_token": ("hub_token=secret", "hub_token is set"),
    "a Space of trackio": (
        "trackio_space_id=owner/space",
        "'owner/space', a Space that everybody can read: set hub_p",
    ),
    "a static Space": ("trackio_static_space_id=a/b", "trackio_static_space_id is 'a/b', a Space that everybody"),
    "hub_private_repo": ("hub_private_repo=true", "there is no trackio_space_id"),
}


@pytest.mark.parametrize(("override", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_named(file, override, message):
    with pytest.raises(ValueError, match=message) as error:
        read_config(file, [override])
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


BAD_FILES = {
    "an image": (b"\x89PNG\r\n\x1a\n\0\0", "is no text: the first word is the YAML file of a stage"),
    "bytes that are text": (b"a: \0", "is not YAML"),
    "a list": (b"[1, 2]", "holds no settings: write `key: value` lines"),
    "a text": (b"model", "holds no settings"),
    "nothing": (b"", "holds no settings"),
    "half a mapping": (b"{model: m", "is not YAML: .* line 1"),
    "a date that does not exist": (b"model: 2025-13-45", "is not YAML"),
    "brackets without an end": (b"[" * 5000, "is not YAML"),
    "a key that is no text": (b"3: 4", "has the unknown key 3"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_hold_no_stage(content, message, tmp_path, capsys):
    (tmp_path / "stage.yaml").write_bytes(content)
    assert cli.main(["train", str(tmp_path / "stage.yaml")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(f"stage.yaml {message}", line), line


def test_files_that_are_none(tmp_path, capsys):
    for name, message in (("none.yaml", "There is no file .*none.yaml: the first"), ("", " is a folder: the first")):
        assert cli.main(["train", str(tmp_path / name)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert re.search(message, line), line


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2_hd"])
def test_shipped_configs_hold_the_published_schedule(name):
    stage = read_config(CONFIGS / f"{name}.yaml", ["use_cpu=true"], num_processes=8)
    assert stage.per_device_train_batch_size * 8 * stage.gradient_accumulation_steps == stage.global_batch_size
    assert (stage.global_batch_size, stage.learning_rate) == ((256, 1e-3) if name == "stage1" else (128, 2e-5))
    assert stage.get_warmup_steps(1000) == 30
    assert stage.hd == ("model.vision_tower" in stage.trainable) == (name == "stage2_hd")


@pytest.mark.parametrize("name", sorted(file.stem for file in CONFIGS.glob("*.yaml") if file.stem != "tiny"))
def test_shipped_configs_are_read_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_config(CONFIGS / f"{name}.yaml", ["use_cpu=true"])
