# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Settings in YAML files and on the command line: nested values, values that follow YAML 1.1, and old names."""

import pytest
from stages import MINIMAL

from flashsloth.train.config import DataSource, LoraSettings, read_config
from flashsloth.train.settings import as_list, read_settings


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{path: a.json, image_folder: images}", [DataSource("a.json", image_folder="images")]),
        ("[a.json, {path: b, weight: 2}]", [DataSource("a.json"), DataSource("b", weight=2)]),
    ],
)
def test_data_is_one_source_or_a_list(file, data, expected):
    assert read_config(file, [f"data={data}"]).data == expected


def test_exponents_are_numbers(file):
    stage = read_config(file, ["learning_rate=2e-5", "learning_rates={model.pooling: 1e-3}"])
    assert stage.learning_rate == 2e-5
    assert stage.learning_rates == {"model.pooling": 1e-3}


def test_no_is_a_strategy_and_no_elsewhere_is_false(file):
    stage = read_config(file, ["save_strategy=no", "eval_strategy=no", "dataloader_drop_last=no"])
    assert (stage.save_strategy, stage.eval_strategy, stage.dataloader_drop_last) == ("no", "no", False)


NESTED = """
model: m
data: [{path: a.json, image_folder: images, weight: 1}, {path: b.json, weight: 3}]
output_dir: out
lora: {parts: [model.vision_tower], r: 4, alpha: 64, modules_to_save: [model.pooling]}
learning_rates: {model.pooling: 1e-3, model.query_tokens: 2e-3}
lr_scheduler_type: warmup_stable_decay
lr_scheduler_kwargs: {num_decay_steps: 10, decay_type: linear}
use_cpu: true
"""


@pytest.fixture
def nested(tmp_path):
    """A YAML file with nested values."""
    path = tmp_path / "nested.yaml"
    path.write_text(NESTED)
    return path


@pytest.mark.parametrize("override", ["lora.r=8", "lora={r: 8}"])
def test_a_nested_value_leaves_the_others(nested, override):
    assert read_config(nested, [override]).lora == LoraSettings(
        ["model.vision_tower"], r=8, alpha=64, modules_to_save=["model.pooling"]
    )


def test_nested_values_of_an_adapter(nested):
    # without `alpha`, it follows from `r`
    assert read_config(nested, ["lora.alpha=null", "lora.modules_to_save=lm_head"]).lora == LoraSettings(
        ["model.vision_tower"], r=4, alpha=8, modules_to_save=["lm_head"]
    )
    assert read_config(nested, ["lora={}"]).lora == LoraSettings()
    assert read_config(nested, ["lora={}", "lora.r=2"]).lora == LoraSettings(r=2)
    assert read_config(nested, ["lora=null", "trainable=[lm_head]"]).lora is None


def test_nested_values_of_sources(nested):
    first, second = DataSource("a.json", image_folder="images", weight=1), DataSource("b.json", weight=3)
    assert read_config(nested, []).data == [first, second]
    assert read_config(nested, ["data.0.weight=2", "data.1.path=c.json"]).data == [
        DataSource("a.json", image_folder="images", weight=2),
        DataSource("c.json", weight=3),
    ]
    assert read_config(nested, ["data.0.weight=null", "data.1.weight="]).data == [
        DataSource("a.json", image_folder="images"),
        DataSource("b.json"),
    ]
    # another source has nothing of those in the file
    assert read_config(nested, ["data={path: c.json}"]).data == [DataSource("c.json")]
    assert read_config(nested, ["data=c.json", "data.0.split=test"]).data == [DataSource("c.json", split="test")]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        # the name of a module has dots
        ("learning_rates.model.query_tokens=1e-4", {"model.pooling": 1e-3, "model.query_tokens": 1e-4}),
        ("learning_rates.lm_head=1e-4", {"model.pooling": 1e-3, "model.query_tokens": 2e-3, "lm_head": 1e-4}),
        ("learning_rates={lm_head: 1e-4}", {"model.pooling": 1e-3, "model.query_tokens": 2e-3, "lm_head": 1e-4}),
        ("learning_rates.model.pooling=null", {"model.query_tokens": 2e-3}),
        ("learning_rates={}", {}),
        ("learning_rates=null", {}),
    ],
)
def test_nested_learning_rates(nested, override, expected):
    assert read_config(nested, [override]).learning_rates == expected


def test_nested_values_of_trl(nested):
    kwargs = read_config(nested, ["lr_scheduler_kwargs.num_decay_steps=20"]).lr_scheduler_kwargs
    assert kwargs == {"num_decay_steps": 20, "decay_type": "linear"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.2.weight=1", "write data.N.setting=value, with N below 2, the number of sources"),
        ("data.first.weight=1", "'data.first.weight=1' names no setting of a source"),
        ("data.0=b.json", "names no setting of a source"),
        ("data.0.wight=1", "data in .* unknown key 'wight'; .* 'weight'"),
        ("lora.target_modules=null", "lora in .* unknown key 'target_modules'"),
        ("data.0.wight=null", "data in .* unknown key 'wight'"),
        ("lora.rank=8", "lora in .* unknown key 'rank'"),
        ("lorra.r=8", "unknown key 'lorra'; the closest known one is 'lora'"),
        ("model.folder=x", "'model.folder=x' sets a nested value, but model is 'm': write model=value"),
        ("seed.x=1", "seed is {'x': 1}: it must be of type int"),
    ],
)
def test_nested_values_that_cannot_exist(nested, override, message):
    with pytest.raises(ValueError, match=message):
        read_config(nested, [override])


@pytest.mark.parametrize(
    "override",
    [
        "data={path: 'ADDRESS', weight: 0}",
        "data={path: 'ADDRESS', weigth: 1}",
        "data=[{path: ADDRESS, weight: 1}, {path: b, split: 3}]",
        "data.7.path=ADDRESS",
        "learning_rate=ADDRESS",
        "lora=ADDRESS",
        "data=[[ADDRESS]]",
        "data={ADDRESS",
        "ADDRESS",
    ],
)
def test_errors_show_no_secrets_of_addresses(file, override):
    with pytest.raises(ValueError) as error:
        read_config(file, [override.replace("ADDRESS", "https://user:PASSWORD@host/rows.json?sig=SIGN")])
    assert "PASSWORD" not in str(error.value) and "SIGN" not in str(error.value)


def test_the_old_name_of_on_broken_rows_still_works(file, caplog):
    assert read_config(file, ["on_bad_rows=skip"]).on_broken_rows == "skip"
    assert caplog.text.count("on_bad_rows is now called on_broken_rows") == 1
    file.write_text(MINIMAL.replace("}", ", on_bad_rows: skip}"))
    assert read_config(file, []).on_broken_rows == "skip"
    assert read_config(file, ["on_broken_rows=stop"]).on_broken_rows == "stop"


def test_null_is_the_default(nested):
    stage = read_config(nested, ["hd=null", "optimizer=", "data_seed=null", "max_length=null"])
    assert (stage.hd, stage.optimizer, stage.data_seed, stage.max_length) == (False, "adamw", None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2E+5", -200_000.0),
        ("1.5e3", 1500.0),
        ("1e", "1e"),
        ("e3", "e3"),
        ("'1e-3'", "1e-3"),
        ("", None),
        ("null", None),
        ("yes", True),
        ("[a, 1e2]", ["a", 100.0]),
        ("a=b", "a=b"),
    ],
)
def test_values_are_yaml(file, text, value):
    assert read_settings(file, [f"model={text}"])["model"] == value


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ("model: [", [], "stage.yaml is not YAML: "),
        ("", [], "stage.yaml holds no settings: write `key: value` lines"),
        ("[model, data]", [], "stage.yaml holds no settings"),
        (MINIMAL, ["model=[a"], r"model=\[a is not YAML: "),
        (MINIMAL, ["model"], "'model' is not an override: write key=value"),
        ("{model: !!python/object/apply:os.getcwd []}", [], "stage.yaml is not YAML: could not determine a constr"),
    ],
)
def test_what_holds_no_settings_is_named(file, content, overrides, message):
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_settings(file, overrides)


def test_the_last_override_counts_and_the_file_stays(file):
    assert read_settings(file, ["seed=1", "seed=2"])["seed"] == 2
    assert file.read_text() == MINIMAL


def test_one_item_needs_no_brackets():
    assert as_list("lm_head") == ["lm_head"] and as_list(["a", "b"]) == ["a", "b"] and as_list([]) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rr=8", "lora in 'lora.rr=8' has the unknown key 'rr'; the closest known one is 'r'"),
        ("lora={rr: 8}", "lora in 'lora={rr: 8}' has the unknown key 'rr'"),
        ("lora.r=abc", "lora in 'lora.r=abc' has a value of a wrong type"),
        ("lora.r=0", "lora r is 0"),
        ("data.0.wight=1", "data in 'data.0.wight=1' has the unknown key 'wight'"),
        ("data={path: 5}", "data in 'data={path: 5}' has a value of a wrong type"),
        ("learning_rat=1", "'learning_rat=1' has the unknown key"),
        ("packing=true", "'packing=true': packing or padding_free is set"),
        ("seed=abc", "'seed=abc': seed is 'abc'"),
        ("save_only_model=true", "'save_only_model=true' sets save_only_model, which cannot be set"),
        ("trainable=[lm_head]", "nested.yaml with 'trainable=.lm_head.': the stage has both"),
        ("output_dir=", "nested.yaml with 'output_dir=' lacks the key 'output_dir'"),
    ],
)
def test_an_override_is_blamed_for_what_it_says_and_the_file_is_not(nested, override, message):
    for overrides in ([override], ["lora.alpha=8", "seed=7", override, "use_cpu=true"]):
        with pytest.raises(ValueError, match=message):
            read_config(nested, overrides)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lora: {rr: 8}", "lora in .*nested.yaml has the unknown key 'rr'"),
        ("learning_rat: 1", "nested.yaml has the unknown key 'learning_rat'"),
        ("seed: abc", "nested.yaml: seed is 'abc'"),
    ],
)
def test_the_file_is_blamed_for_what_it_says(nested, setting, message):
    nested.write_text(NESTED.replace("lora:", "was:") if setting.startswith("lora") else NESTED)
    nested.write_text(nested.read_text().replace("was: {parts", "report_to: none #") + setting + "\n")
    with pytest.raises(ValueError, match=message):
        read_config(nested, ["lora.alpha=8", "learning_rate=1e-3"])
