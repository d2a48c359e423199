# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmarks measure both models and end with one JSON object; its figures are no test's business."""

import json

import pytest
import torch
from samples import make_config, make_image, make_model

from flashsloth.bench import inference, main
from flashsloth.convert.quantization import quantize


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
    peer = inference.uncompressed_peer(model)
    image_processor = inference.FlashSlothImageProcessor(size={"height": 24, "width": 24})
    run = inference.LlavaRun(peer, image_processor, [make_image(0)])
    with torch.no_grad():
        features = run.see(run.process())
        patches = model.get_image_features(run.process()).last_hidden_state[0, 0]
        expected = peer.model.multi_modal_projector(patches)
    torch.testing.assert_close(features.pooler_output[0], expected)
    assert peer.lm_head.weight is model.lm_head.weight


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


def test_what_is_measured_of_a_batch_is_what_is_measured_of_its_rows():
    model = make_model()
    image_processor = inference.FlashSlothImageProcessor(size={"height": 24, "width": 24}, hd=True)
    photos = [make_image(0), make_image(1)]
    both = inference.FlashSlothRun(model, image_processor, photos)
    alone = [inference.FlashSlothRun(model, image_processor, [photo]) for photo in photos]
    with torch.no_grad():
        logits = both.prefill(both.see(both.process()), None)
        for row, run in enumerate(alone):
            torch.testing.assert_close(logits[row : row + 1], run.prefill(run.see(run.process()), None))


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
    with pytest.raises(ValueError, match="The model no/such/folder cannot be loaded"):
        main(["--model", "no/such/folder"])


def test_no_peer(folder, capsys):
    main(["--model", folder, "--repeats", "1", "--new-tokens", "1", "--dtype", "float32", "--no-peer"])
    assert "llava" not in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_training_measures_both_models_in_processes_of_their_own(capsys):
    sizes = {"image-size": 54, "patch-size": 6, "vision-width": 16, "vision-layers": 1, "text-width": 32}
    sizes |= {"text-layers": 2, "head-width": 8, "rows": 2, "warmup": 1, "steps": 2, "rounds": 1, "answer-words": 4}
    main(["train", *(word for name, value in sizes.items() for word in (f"--{name}", str(value)))])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    own, peer = report["flashsloth"], report["llava"]
    assert (own["visual_tokens"], peer["visual_tokens"]) == (9, 81)
    # The same rows: they differ by the visual tokens and the four query tokens.
    assert peer["sequence_tokens"] - own["sequence_tokens"] == 81 - 9 - 4
    assert own["step_s"] > 0 and own["peak_memory_gb"] > 0 and peer["peak_memory_gb"] > 0
    assert report["step_ratio"] == pytest.approx(own["step_s"] / peer["step_s"], rel=0.01)
    assert report["text_width"] == 32


@pytest.fixture
def model_folder(processor, tmp_path):
    model = tmp_path / "model"
    make_model(make_config(text_config={"hidden_size": 64})).save_pretrained(model)
    processor.save_pretrained(model)
    return model


def test_decoding_of_a_quantized_model(model_folder, tmp_path, capsys):
    folder = quantize(model_folder, tmp_path / "int4", "int4")
    main(["quantize", "--only", str(folder), "--new-tokens", "1", "--dtype", "float32"])
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured.keys() == {"load_s", "memory_gb", "seconds_per_token"}
    assert measured["seconds_per_token"] > 0 and measured["memory_gb"] > 0


@pytest.mark.slow
def test_quantized_models_are_measured_beside_the_original(model_folder, tmp_path, capsys):
    options = ["--model", str(model_folder), "--new-tokens", "1", "--dtype", "float32", "--folder", str(tmp_path)]
    main(["quantize", *options])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["original"]["disk_gb"] > report["int8"]["disk_gb"] > report["int4"]["disk_gb"] > 0
    for name in ("int8", "int4"):
        assert report[name]["quantize_s"] > 0 and report[name]["quantize_peak_gb"] > 0
    assert all(report[name]["seconds_per_token"] > 0 for name in ("original", "int8", "int4"))
    assert {file.name for file in tmp_path.iterdir()} == {"model"}
