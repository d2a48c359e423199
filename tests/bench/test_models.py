# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What the benchmarks measure on: the same images and weights in every run, and a LLaVA that shares its parts."""

import numpy as np
import torch
from safetensors.torch import load_file
from samples import make_config, make_image, make_model

from flashsloth import FlashSlothForCausalLM, FlashSlothImageProcessor
from flashsloth.bench import inference
from flashsloth.bench.models import (
    WEIGHT_STD,
    random_image,
    random_weights,
    uncompressed_peer,
    weight_bytes,
    write_random_model,
)


def test_peer_shares_the_towers_and_has_a_visual_token_for_every_patch():
    model = make_model(make_config())
    peer = uncompressed_peer(model)
    image_processor = FlashSlothImageProcessor(size={"height": 24, "width": 24})
    run = inference.LlavaRun(peer, image_processor, [make_image(0)])
    with torch.no_grad():
        features = run.encode(run.process())
        patches = model.get_image_features(run.process()).last_hidden_state[0, 0]
        expected = peer.model.multi_modal_projector(patches)
    torch.testing.assert_close(features.pooler_output[0], expected)
    assert peer.lm_head.weight is model.lm_head.weight


def test_images_are_the_same_in_every_run():
    first, second = (np.asarray(random_image(40, 30)) for _ in range(2))
    assert first.shape == (30, 40, 3) and np.array_equal(first, second)
    assert first.std() > 50  # noise, which no encoder makes small


def test_a_written_model_loads_and_is_the_same_each_time(tmp_path):
    with torch.device("meta"):
        model = FlashSlothForCausalLM(make_config(dtype="bfloat16"))
    for name in ("first", "second"):
        write_random_model(model, tmp_path / name)
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    weights = load_file(first)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    values = weights["model.language_model.embed_tokens.weight"].float()
    assert abs(values.std() - WEIGHT_STD) < 0.001
    loaded, info = FlashSlothForCausalLM.from_pretrained(tmp_path / "first", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(loaded.lm_head.weight, weights["lm_head.weight"])


def test_the_bytes_of_weights_are_known_before_any_is_made(tmp_path):
    model = make_model()
    model.config.dtype = torch.bfloat16
    tensors = random_weights(model)
    floats = sum(tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())
    assert weight_bytes(tensors) == 2 * floats
    assert weight_bytes({}) == 0
    tensor = tensors["lm_head.weight"]
    assert (tensor.read().shape, tensor.read().dtype) == (model.lm_head.weight.shape, torch.bfloat16)
