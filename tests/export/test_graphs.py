# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The parts of a model that are exported: traced without memory for weights, from decoders that keep all positions."""

import pytest
import torch
from model_folders import error_of
from samples import make_config, make_model

from flashsloth.export.graphs import cache_shapes, empty_model, graphs
from flashsloth.folders.exported import GRAPHS


# Sizes at which the weights of a real model would show.
LARGE = {"text_config": {"hidden_size": 4096, "intermediate_size": 65536, "vocab_size": 100_000}}


def test_an_empty_model_has_names_shapes_and_buffers_but_no_bytes():
    model, expected = empty_model(make_config(), torch.float32), make_model()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in expected.named_parameters()}
    for (name, buffer), (_, wanted) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted, msg=name)
    large = empty_model(make_config(**LARGE), torch.float16)
    assert sum(parameter.untyped_storage().nbytes() for parameter in large.parameters()) < 1000
    assert large.dtype == torch.float16


def test_the_graphs_are_named_as_their_files():
    assert [make().name for make in graphs(make_config(), torch.float32)] == list(GRAPHS)


def test_heads_and_widths_of_the_cache_are_those_of_the_decoder():
    assert cache_shapes(make_config()) == [(4, 8)] * 6
    llama = {"model_type": "llama", "num_key_value_heads": 2, "head_dim": 6}
    assert cache_shapes(make_config(text_config=llama)) == [(2, 6)] * 6


@pytest.mark.parametrize(
    ("text_config", "kind"),
    [({"model_type": "mistral", "sliding_window": 4, "num_key_value_heads": 4}, "DynamicSlidingWindowLayer")],
)
def test_a_decoder_that_forgets_is_refused(text_config, kind):
    assert f"keeps states of the kind {kind}" in error_of(cache_shapes, make_config(text_config=text_config))


def test_a_rotary_embedding_that_follows_the_length_is_refused():
    rotary = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = make_config(text_config={"model_type": "llama", "rope_parameters": rotary})
    message = error_of(cache_shapes, config)
    assert "a llama, has rope_type 'dynamic', whose frequencies change" in message
    assert "Run the model with torch, or export one with a fixed rope_type" in message


def test_a_fixed_rotary_embedding_is_exported():
    rotary = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0}
    assert cache_shapes(make_config(text_config={"model_type": "llama", "rope_parameters": rotary})) == [(4, 8)] * 6
