# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The vision tower trains, and resumes from its checkpoint."""

import torch

from flashsloth.tiny.loop import train
from flashsloth.tiny.tower import new_tower, probe
from flashsloth.tiny.tower_data import Views, collate


def test_a_training_that_was_stopped_resumes_and_ends_the_same(tokenizer, tmp_path):
    def run(folder, steps, until):
        """Trains up to step `until`, or resumes; returns the weights."""
        torch.manual_seed(0)
        tower = new_tower(tokenizer, width=32, layers=1, heads=2)

        def losses(batch):
            image_loss, region_loss = tower(batch)
            return {"image": image_loss, "region": region_loss}

        def batches_from(step):
            for number in range(step, until):
                views = Views(tokenizer, "train", 4 * number, 4 * number + 4)
                yield collate([views[index] for index in range(4)])

        def measure():
            views = Views(tokenizer, "validation", 0, 8)
            return probe(tower, [collate([views[index] for index in range(8)])])

        train(tower, losses, batches_from, steps, 1e-3, folder, measure, measure_every=3)
        return tower.state_dict()

    whole = run(tmp_path / "whole", steps=6, until=6)
    run(tmp_path / "parts", steps=6, until=4)  # its last checkpoint is that of step 3
    parts = run(tmp_path / "parts", steps=6, until=6)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
