# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Seeds: the same one gives the same noise, and every answer of a request has noise of its own."""

from flashsloth.serve.sampling import Sampling


def test_a_seed_gives_the_same_noise_to_the_same_answer_alone():
    assert Sampling(1.0, seed=7).noise_seed() == Sampling(0.5, 0.9, seed=7).noise_seed()
    seeds = [Sampling(seed=seed, index=index).noise_seed() for seed in (-1, 7, 2**70) for index in range(3)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)


def test_without_a_seed_each_answer_has_other_noise():
    assert Sampling(1.0).noise_seed() != Sampling(1.0).noise_seed()
