# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The configuration: its defaults are the published model, and contradicting fields are refused."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from samples import make_config, make_model

from flashsloth import FlashSlothConfig, FlashSlothForCausalLM


def test_default_is_the_published_model():
    with torch.device("meta"):
        model = FlashSlothForCausalLM(FlashSlothConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_196_373_985
    assert (model.config.num_patches, model.config.num_visual_tokens) == (729, 81)
    assert model.config.query_token_ids == list(range(50299, 50308))


def test_json_round_trip(tmp_path):
    config = make_config(pooling_mode="average", num_query_tokens=2, query_layer=2)
    config.save_pretrained(tmp_path)
    loaded = FlashSlothConfig.from_pretrained(tmp_path)
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
    assert type(loaded.text_config) is type(config.text_config)


@pytest.mark.parametrize(
    ("overrides", "numbers"),
    [
        ({"pooling_size": 4}, ("4", "6 x 6")),
        ({"pooling_size": 0}, ("0", "6 x 6")),
        ({"pooling_mode": "max"}, ("'max'",)),
        ({"query_layer": 3}, ("3", "0 to 2")),
        ({"query_layer": -1}, ("-1", "0 to 2")),
        ({"query_num_heads": 3}, ("3", "8")),
        ({"query_hidden_size": 6, "query_num_heads": 3}, ("3", "16")),
        ({"num_query_tokens": -1}, ("-1",)),
        ({"image_token_id": 320}, ("320", "320")),
        ({"eos_token_id": 400}, ("400", "320")),
        ({"first_query_token_id": 318}, ("320", "320")),
        ({"first_query_token_id": 258}, ("258",)),
        ({"first_query_token_id": 256, "query_slot_token_id": 300}, ("257",)),
        ({"eos_token_id": [257, 400]}, ("400", "320")),
        ({"eos_token_id": []}, ("empty list",)),
        ({"bos_token_id": 320}, ("320", "320")),
        ({"pad_token_id": 257}, ("pad_token_id=257",)),
        ({"image_token_id": 256}, ("image_token_id=256",)),
        ({"query_hidden_size": 0}, ("query_hidden_size=0",)),
        ({"pooling_dropout": 7.0}, ("7.0",)),
        ({"turn_prefix_length": -3}, ("-3",)),
        ({"text_config": {"num_attention_heads": 5}}, ("5", "32")),
        ({"vision_config": {"num_attention_heads": 3}}, ("3", "16")),
        ({"vision_config": {"patch_size": 0}}, ("0", "24")),
        ({"vision_config": {"patch_size": 25}}, ("25", "24")),
        ({"query_base_token_id": 999}, ("999", "320")),
    ],
)
def test_contradictions_are_named_with_both_numbers(overrides, numbers):
    with pytest.raises(StrictDataclassError) as error:
        make_config(**overrides)
    assert all(number in str(error.value) for number in numbers)


@pytest.mark.parametrize(
    "overrides",
    [
        {"pooling_mode": "average"},
        {"pooling_mode": "none"},
        {"pooling_size": 2},
        {"pooling_size": 6},
        {"num_query_tokens": 0},
        {"num_query_tokens": 1},
        {"query_layer": 0},
        {"query_layer": 2},
        {"query_base_token_id": None},
        {"tie_word_embeddings": True, "lm_head_bias": False},
    ],
    ids=str,
)
def test_variants_save_load_and_run(overrides, tmp_path):
    model = make_model(make_config(**overrides))
    model.save_pretrained(tmp_path)
    loaded = FlashSlothForCausalLM.from_pretrained(tmp_path).eval()
    config = model.config
    ids = [65, *[258] * config.num_visual_tokens, 10, 66, 67, *config.query_token_ids, 68]
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values": torch.rand(1, 3, 24, 24)}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, loaded(**inputs).logits)


def test_no_query_tokens_leaves_the_module_out():
    names = {name.split(".")[1] for name, _ in make_model(make_config(num_query_tokens=0)).named_parameters()}
    assert not names & {"query_tokens", "embedded_query"}


@pytest.mark.parametrize("name", ["num_visual_tokens", "num_patches", "grid_size", "query_token_ids"])
def test_fields_that_follow_from_others_are_refused(tmp_path, name):
    make_config().save_pretrained(tmp_path)
    for make in (
        lambda: FlashSlothConfig(**{name: 9}),
        lambda: FlashSlothConfig.from_pretrained(tmp_path, **{name: 9}),
        lambda: FlashSlothConfig.from_dict(make_config().to_dict() | {name: 9}),
    ):
        with pytest.raises(ValueError, match=f"{name}=9 cannot be set: it follows from other fields"):
            make()


@pytest.mark.parametrize("change", [{"query_layer": 9}, {"pooling_size": 4}, {"image_token_id": 256}])
def test_changes_of_a_saved_config_are_checked_too(tmp_path, change):
    make_config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=next(iter(change))):
        FlashSlothConfig.from_pretrained(tmp_path, **change)
