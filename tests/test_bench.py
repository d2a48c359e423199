# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark measures both models and ends with one JSON object; its figures are no test's business."""

import json

import pytest
import torch
from conftest import make_config, make_image, make_model

from flashsloth.bench import inference, main


@pytest.fixture
def folder(tmp_path):
    # the benchmark's prompt uses token ids from 100 to 131
    make_model().save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("hd", [False, True])
def test_last_line_is_the_report(folder, capsys, hd):
    main(["--model", folder, "--repeats", "1", "--new-tokens", "2", "--dtype", "float32", *(["--hd"] if hd else [])])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    own, peer = report["flashsloth"], report["llava"]
    assert (own["visual_tokens"], peer["visual_tokens"]) == (20 if hd else 4, 36)
    for name in ("processing_s", "vision_s", "prefill_s", "time_to_first_token_s", "seconds_per_token"):
        assert own[name] > 0 and peer[name] > 0
    assert report["time_to_first_token_ratio"] == pytest.approx(
        own["time_to_first_token_s"] / peer["time_to_first_token_s"], rel=0.01
    )


def test_peer_shares_the_towers_and_sees_every_patch():
    model = make_model(make_config())
    peer = inference._uncompressed_peer(model)
    image_processor = inference.FlashSlothImageProcessor(size={"height": 24, "width": 24})
    run = inference.LlavaRun(peer, image_processor, make_image(0))
    with torch.no_grad():
        features = run.see(run.process())
        patches = model.get_image_features(run.process()).last_hidden_state[0, 0]
        expected = peer.model.multi_modal_projector(patches)
    torch.testing.assert_close(features.pooler_output[0], expected)
    assert peer.lm_head.weight is model.lm_head.weight


def test_no_peer(folder, capsys):
    main(["--model", folder, "--repeats", "1", "--new-tokens", "1", "--dtype", "float32", "--no-peer"])
    assert "llava" not in json.loads(capsys.readouterr().out.splitlines()[-1])
