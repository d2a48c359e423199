# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What benchmarks share in their scores."""

import numpy as np
import pytest

from flashsloth.eval.benchmark import percent, ratio


def test_percent_is_a_weighted_mean():
    values = np.array([1.0, 0.0, 0.5])
    assert percent(values, np.array([1.0, 1.0, 2.0])) == 50
    assert percent(values, np.array([0.0, 3.0, 0.0])) == 0
    assert percent(values, np.zeros(3)) is None


@pytest.mark.parametrize(("part", "whole", "expected"), [(1, 4, 0.25), (0, 0, 0.0)])
def test_ratio_of_nothing_is_0(part, whole, expected):
    assert ratio(part, whole) == expected
