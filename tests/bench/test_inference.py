# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of answers measures both models and ends with one JSON object; its figures are not tested."""

import json

import pytest
import torch
from samples import make_image, make_model

from flashsloth import FlashSlothImageProcessor
from flashsloth.bench import inference, main


@pytest.fixture
def folder(tmp_path):
    """A small model, whose vocabulary has the token ids 100 to 131 of the benchmark's prompt."""
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


def test_decoding_with_a_static_cache_is_one_graph(folder, capsys, monkeypatch):
    compile_model = torch.compile
    # without a backend that generates code, which takes most of a minute
    monkeypatch.setattr(
        torch, "compile", lambda model, mode, **kwargs: compile_model(model, backend="eager", **kwargs)
    )
    main(["--model", folder, "--repeats", "1", "--new-tokens", "3", "--dtype", "float32", "--compile"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["compiled_decoding"]
    assert report["flashsloth"]["seconds_per_token"] > 0 and report["llava"]["seconds_per_token"] > 0


def test_a_batch_computes_what_its_rows_compute():
    model = make_model()
    image_processor = FlashSlothImageProcessor(size={"height": 24, "width": 24}, hd=True)
    images = [make_image(0), make_image(1)]
    both = inference.FlashSlothRun(model, image_processor, images)
    alone = [inference.FlashSlothRun(model, image_processor, [image]) for image in images]
    with torch.no_grad():
        logits = both.prefill(both.encode(both.process()), None)
        for row, run in enumerate(alone):
            torch.testing.assert_close(logits[row : row + 1], run.prefill(run.encode(run.process()), None))


def test_batch_of_rows_is_reported(folder, capsys):
    main(["--model", folder, "--repeats", "1", "--new-tokens", "2", "--dtype", "float32", "--rows", "3"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == 3


@pytest.mark.parametrize("device", ["bogus", "cuda:99"])
def test_device_that_is_not_here(device, capsys):
    with pytest.raises(SystemExit) as error:
        main(["--device", device])
    assert error.value.code == 2
    assert f"--device {device} is not here" in capsys.readouterr().err


def test_model_that_is_not_here():
    with pytest.raises(FileNotFoundError, match="No model folder at 'no/such/folder'"):
        main(["--model", "no/such/folder"])


def test_no_peer(folder, capsys):
    main(["--model", folder, "--repeats", "1", "--new-tokens", "1", "--dtype", "float32", "--no-peer"])
    assert "llava" not in json.loads(capsys.readouterr().out.splitlines()[-1])
