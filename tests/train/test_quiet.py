# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Warnings that a user can do nothing about are left out, and no others."""

import warnings

from flashsloth.train.quiet import WARNINGS, quiet_libraries


def test_exactly_the_listed_warnings_are_left_out():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries():
            for message, category in WARNINGS:
                warnings.warn(message, category, stacklevel=1)
            warnings.warn("the learning rate is 0", UserWarning, stacklevel=1)
        warnings.warn(*WARNINGS[0], stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["the learning rate is 0", WARNINGS[0][0]]
