# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The load test loses no request, gets the answers of `generate`, and ends with one JSON object."""

import asyncio
import json
import os

import pytest
from openai_server import LIMITS, running_server

from flashsloth.bench import main, serving
from flashsloth.bench.evaluation import make_question
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor


SHORT = ["--clients", "1", "3", "--requests", "6", "--turns", "1", "--batches", "1", "--servers", "2"]


def test_last_line_is_the_report(capsys):
    main(["serve", *SHORT])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("1 clients", "3 clients"):
        assert report[name]["answers_per_s"] > 0
        for token in ("first", "last"):
            assert 0 < report[name][f"{token}_token_p50_s"] <= report[name][f"{token}_token_p95_s"]
    assert (report["different_answers"], report["different_from_generate"]) == (0, 0)
    rates = report["answers_per_s"]
    assert report["of_one_generate"] == pytest.approx(rates["8 clients"] / rates["one generate"], rel=0.02)
    assert len(report["of_one_generate_by_server"]) == 2
    assert report["of_one_after_the_other"] == pytest.approx(
        rates["8 clients"] / rates["one after the other"], rel=0.02
    )


@pytest.fixture(scope="module")
def server():
    with running_server(*load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype="float32"), LIMITS) as server:
        yield server


def test_soak_counts_what_became_of_each_request(server):
    report = asyncio.run(serving.soak(server.url, os.getpid(), 32))
    assert (report["answered"], report["refused"], report["left"], report["health"]) == (16, 14, 2, "ok")
    assert len(report["memory_mib"]) == 10


def test_request_that_is_refused_or_lost_ends_the_benchmark(server):
    good = serving.body_of(make_question(0))
    with pytest.raises(RuntimeError, match="refused.*unknown_parameter"):
        asyncio.run(serving.ask_all(server.url, serving.requests_of(server.url, [good, {**good, "unknown": 1}]), 1))


def test_wrong_number(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--clients", "0"])
    assert stop.value.code == 2 and "must be 1 or more" in capsys.readouterr().err
