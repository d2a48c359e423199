# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A benchmark of a few questions in the published formats, for each task."""

import pytest
from benchmark_files import TASKS, Benchmark, write_benchmark


@pytest.fixture
def benchmark(tmp_path, request) -> Benchmark:
    """Of the task that a test is parametrized with, by `indirect`."""
    return write_benchmark(request.param, tmp_path / request.param)


@pytest.fixture(params=TASKS)
def any_benchmark(tmp_path, request) -> Benchmark:
    """Each of the five."""
    return write_benchmark(request.param, tmp_path / request.param)
