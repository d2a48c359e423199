# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of training measures both models and ends with one JSON object; its figures are not tested."""

import json
import shutil
import sys

import pytest

from flashsloth.bench import main, training


SIZES = {"image-size": 54, "patch-size": 6, "vision-width": 16, "vision-layers": 1, "text-width": 32}
SIZES |= {"text-layers": 2, "head-width": 8, "rows": 2, "warmup": 1, "steps": 2, "rounds": 1, "answer-words": 4}
ARGUMENTS = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]


def test_both_models_are_measured_on_the_same_rows(capsys, monkeypatch):
    """In this process: each of its own takes seconds to start."""

    def run_here(name, arguments):
        training.main([*arguments, "--only", name])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    monkeypatch.setattr(training, "run_apart", run_here)
    main(["train", *ARGUMENTS])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    own, peer = report["flashsloth"], report["llava"]
    assert (own["visual_tokens"], peer["visual_tokens"]) == (9, 81)
    # The same rows: they differ by the visual tokens and the four query tokens.
    assert peer["sequence_tokens"] - own["sequence_tokens"] == 81 - 9 - 4
    assert own["step_s"] > 0 and own["peak_memory_gb"] > 0 and peer["peak_memory_gb"] > 0
    assert report["step_ratio"] == pytest.approx(own["step_s"] / peer["step_s"], rel=0.01)
    assert report["text_width"] == 32


def test_a_model_runs_in_a_process_of_its_own():
    measured = training.run_apart("llava", ARGUMENTS)
    assert measured["visual_tokens"] == 81 and len(measured["step_s"]) == 2


def test_a_process_that_fails_ends_the_benchmark(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="the run of llava failed with status 1"):
        training.run_apart("llava", ARGUMENTS)
