# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The parts of a folder belong together, and those that do not are named with both values."""

import copy
import json

import pytest
from samples import make_config

from flashsloth.folders.fit import (
    check_escaped_tokens,
    check_generation_config,
    check_image_processor,
    check_processor,
    check_processor_sizes,
)


def test_the_parts_of_a_saved_model_fit(processor, tmp_path):
    config = make_config()
    check_processor(processor, config, tmp_path)
    check_image_processor(processor.image_processor, tmp_path)
    check_generation_config(tmp_path, config)  # there is none
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 257, "suppress_tokens": [256, 258]}))
    check_generation_config(tmp_path, config)


BAD_INPUT = {
    "another number of query tokens": ({"num_query_tokens": 4}, "has num_query_tokens 3, but the config has 4"),
    "another image token": ({"image_token_id": 300}, "has image_token_id 258, but the config has 300"),
    "another end token": ({"eos_token_id": 301}, "has eos_token_id 257, but the config has 301"),
    "views of another size": ({"vision_config": {"image_size": 48}}, "num_visual_tokens 4, but the config has 16"),
    "fewer positions": (
        {"text_config": {"max_position_embeddings": 512}},
        "model_max_length 1024, but the decoder has 512",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_a_processor_of_another_model(processor, case):
    change, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message):
        check_processor(processor, make_config(**change), "here")


@pytest.mark.parametrize("size", [-1, 10**9, "3", None, True])
def test_sizes_that_are_no_counts(size):
    with pytest.raises(ValueError, match="which is not a count of tokens"):
        check_processor_sizes({"num_query_tokens": size}, None, "here")


@pytest.mark.parametrize("tokens", [[""], ["<image>", 5], "<image>", {}, 7])
def test_texts_to_escape_that_are_none(tokens):
    check_escaped_tokens({"escaped_tokens": ["<image>"]}, "here")
    check_escaped_tokens({"escaped_tokens": None}, "here")
    check_escaped_tokens({}, "here")
    with pytest.raises(ValueError, match="here has escaped_tokens .* Save the processor"):
        check_escaped_tokens({"escaped_tokens": tokens}, "here")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_std", [0.5, -0.5, 0.5], "turns black into 1 and white into -1"),
        ("rescale_factor", 1e-9, "turns black into -1 and white into -0.999999"),
        ("tile_grid", 99, "has tile_grid 99, which is not a whole number up to 16"),
        ("resample", 77, "has resample 77"),
        ("hd", "yes", "has hd 'yes', which is not true or false"),
    ],
)
def test_settings_with_which_no_image_can_be_processed(processor, name, value, message):
    image_processor = copy.deepcopy(processor.image_processor)
    setattr(image_processor, name, value)
    with pytest.raises(ValueError, match=f"The image processor in here {message}"):
        check_image_processor(image_processor, "here")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eos_token_id": 5}, "answers would not end"),
        ({"eos_token_id": None}, "has no eos_token_id: answers would not end. Put that of the config there: 257"),
        ({"suppress_tokens": [257]}, "suppresses 257, the end of an answer"),
        ({"suppress_tokens": 258}, "suppress_tokens '258': it must be a list of ids of tokens, from 0 to "),
        ({"max_new_tokens": 0}, "max_new_tokens '0': it must be a whole number of 1 or more"),
        ({"num_beams": 10**12}, "num_beams '1000000000000', which is no setting"),
        ({"stop_strings": ["."]}, "stop_strings .*, which is no setting"),
        ({"assistant_model": "x"}, "assistant_model 'x', which is no setting"),
    ],
)
def test_generation_configs_that_cannot_be_used(tmp_path, fields, message):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 257} | fields))
    with pytest.raises(ValueError, match=message):
        check_generation_config(tmp_path, make_config())
