# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Configs in the published layout that cannot be converted."""

import pytest
from model_folders import with_config

from flashsloth import FlashSlothConfig
from flashsloth.convert import convert_checkpoint
from flashsloth.convert.published_config import check_has_published_form, published_config


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "llama"}, "no published FlashSloth config"),
        ({"model_type": "flashsloth"}, "in this project's layout already"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": 128}, "wrongly shaped"),
        ({"num_hidden_layers": 7}, "query_layer=7 is outside the decoder"),
    ],
)
def test_config_errors(changes, message, source, tmp_path):
    with_config(source, tmp_path / "source", **changes)
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(tmp_path / "source", tmp_path / "ours")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()


def test_the_default_config_has_a_published_form():
    config = FlashSlothConfig()
    check_has_published_form(config)
    fields = published_config(config, "float16", hd=True)
    assert (fields["model_type"], fields["torch_dtype"], fields["image_hd"]) == ("phi", "float16", True)
    assert fields["mm_vision_tower"] == "siglip-patch14-384"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_query_tokens": 0}, "no query tokens"),
        ({"pooling_mode": "average"}, "pooling_mode 'average' instead of 'attention'"),
        ({"query_num_heads": 16}, "query_num_heads 16 instead of 32"),
    ],
    ids=str,
)
def test_what_has_no_published_form(changes, message):
    with pytest.raises(ValueError, match=f"no form in the published layout: .*{message}"):
        check_has_published_form(FlashSlothConfig(**changes))
