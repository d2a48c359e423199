# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Several questions about one scene."""

import random

import numpy as np

from flashsloth.tiny.conversations import conversation
from flashsloth.tiny.scenes import make_scene


def test_conversations_have_several_different_questions():
    lengths = []
    for index in range(100):
        turns = conversation(make_scene("train", "ordinary", index), random.Random(index))
        assert turns and len({turn.question for turn in turns}) == len(turns)
        lengths.append(len(turns))
    assert np.mean(lengths) > 3
