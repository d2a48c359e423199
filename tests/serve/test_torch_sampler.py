# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Greedy and sampled rows in one batch: each is as if it were alone, and samples have the right probabilities."""

import pytest
import torch

from flashsloth.serve.sampling import Sampling
from flashsloth.serve.torch_sampler import RowSampler, new_generator


CPU = torch.device("cpu")
SCORES = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -torch.inf])


def sampler(*settings: Sampling) -> RowSampler:
    return RowSampler(settings, [new_generator(setting, CPU) for setting in settings], CPU)


def draw(choose: RowSampler, scores: torch.Tensor = SCORES) -> list[int]:
    rows = len(choose.settings)
    return choose(torch.zeros(rows, 1, dtype=torch.long), scores.expand(rows, -1).clone()).argmax(dim=-1).tolist()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8)])
def test_samples_have_the_probabilities_of_the_softmax(temperature, top_p):
    choose = sampler(*[Sampling(temperature, top_p, seed=seed) for seed in range(200)])
    counts = torch.zeros(len(SCORES))
    for _ in range(50):
        counts += torch.bincount(torch.tensor(draw(choose)), minlength=len(SCORES))
    expected = (SCORES / temperature).softmax(dim=-1)
    order = expected.argsort(descending=True)
    kept = order[: int((expected[order].cumsum(0) < top_p).sum()) + 1]
    nucleus = torch.zeros_like(expected)
    nucleus[kept] = expected[kept]
    torch.testing.assert_close(counts / counts.sum(), nucleus / nucleus.sum(), atol=0.02, rtol=0)
    assert counts[-1] == 0, "a suppressed token was sampled"


@pytest.mark.parametrize("temperature", [1e-30, 1e-37, 1e-46, 5e-324])
def test_the_smallest_temperatures_take_the_likeliest_token(temperature):
    for top_p in (1.0, 0.5):
        choose = sampler(Sampling(temperature, top_p, seed=1, top_logprobs=1), Sampling(temperature, top_p, seed=2))
        scores = torch.stack([SCORES.flip(0) * 100, SCORES])
        chosen = choose(torch.zeros(2, 1, dtype=torch.long), scores)
        assert not chosen.isnan().any() and chosen.argmax(dim=-1).tolist() == [5, 0]


def test_greedy_row_beside_sampled_ones_is_untouched():
    choose = sampler(Sampling(1.0, seed=1), Sampling(), Sampling(1.5, 0.9, seed=2))
    scores = choose(torch.zeros(3, 1, dtype=torch.long), SCORES.expand(3, -1).clone())
    assert torch.equal(scores[1], SCORES) and not torch.equal(scores[0], SCORES)


def test_seed_gives_the_same_tokens_in_any_batch():
    alone = sampler(Sampling(1.5, seed=7))
    beside = sampler(Sampling(1.5, seed=8), Sampling(), Sampling(1.5, seed=7))
    tokens = [draw(alone)[0] for _ in range(20)]
    assert [draw(beside)[2] for _ in range(20)] == tokens
    others = sampler(Sampling(1.5, seed=7, index=1), Sampling(1.5, seed=9))
    drawn = [draw(others) for _ in range(20)]
    assert [pair[0] for pair in drawn] != tokens and [pair[1] for pair in drawn] != tokens


def test_without_a_seed_answers_differ():
    choose = sampler(*[Sampling(2.0)] * 2)
    drawn = [draw(choose) for _ in range(40)]
    assert [pair[0] for pair in drawn] != [pair[1] for pair in drawn]


def test_logprobs_are_those_at_temperature_one():
    choose = sampler(Sampling(), Sampling(2.0, 0.1, seed=1, top_logprobs=2), Sampling(top_logprobs=0))
    tokens = draw(choose)
    found = choose.logprobs(tokens)
    expected = SCORES.log_softmax(dim=-1).tolist()
    assert set(found) == {1, 2}
    assert found[1].chosen == pytest.approx(expected[tokens[1]])
    assert [token for token, _ in found[1].top] == [0, 1]
    assert [value for _, value in found[1].top] == pytest.approx(expected[:2])
    assert found[2].top == [] and found[2].chosen == pytest.approx(expected[0])
