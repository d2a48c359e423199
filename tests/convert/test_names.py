# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Names of tensors: each table reads both ways."""

import golden_checkpoint
import pytest

from flashsloth.convert.names import LANGUAGE_MODEL, PUBLISHED, VISION_MODEL, backwards, rename, renamed


@pytest.mark.parametrize("table", [PUBLISHED, LANGUAGE_MODEL, VISION_MODEL], ids=["published", "language", "vision"])
def test_no_beginning_is_that_of_another(table):
    for direction in (table, backwards(table)):
        starts = [old for old, _ in direction]
        assert not [(one, other) for one in starts for other in starts if one != other and other.startswith(one)]
        assert len(set(starts)) == len(starts)


def test_every_published_name_is_in_the_table_both_ways():
    names = golden_checkpoint.read("parameters.json")
    found = {rename(name, PUBLISHED) for name in names}
    assert None not in found and len(found) == len(names)
    for name in names:
        assert rename(rename(name, PUBLISHED), backwards(PUBLISHED)) == name
    assert rename("model.lqformer.unknown", PUBLISHED) is None


def test_unknown_names_stay():
    tensors = {"model.layers.0.fc1.weight": 1, "model.unknown": 2}
    assert renamed(tensors, PUBLISHED) == {"model.language_model.layers.0.fc1.weight": 1, "model.unknown": 2}
