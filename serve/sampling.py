# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
How the next token of each row of a batch is chosen, where every row has settings of its own: greedy rows and sampled
rows share one `generate`. To the scores of a sampled row Gumbel noise is added, and the largest of such sums is a
sample of the softmax; so `generate` decodes greedily, and a row's noise is its own, whatever rows are beside it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor, TopPLogitsWarper


SEED_BITS = 63
LEAST_TEMPERATURE = torch.finfo(torch.float32).tiny  # a smaller one is 0 in the scores' precision, and divides nothing


@dataclass(frozen=True)
class Sampling:
    """
    How one answer's tokens are chosen.

    Args:
        temperature (`float`, *optional*, defaults to 0): 0 always takes the likeliest token.
        top_p (`float`, *optional*, defaults to 1): Sample among the likeliest tokens that have this probability
            together.
        seed (`int`, *optional*): The same seed gives the same answer; a random one if unset.
        index (`int`, *optional*, defaults to 0): Which of several answers to the same request this is.
        top_logprobs (`int`, *optional*): Keep log probabilities: those of so many of the likeliest tokens, and that of
            the token that is chosen. None are kept if unset.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    index: int = 0
    top_logprobs: int | None = None

    def generator(self, device: torch.device) -> torch.Generator:
        """The source of the answer's noise."""
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(random.Random(f"{self.seed} {self.index}").getrandbits(SEED_BITS))
        return generator


@dataclass(frozen=True)
class TokenLogprobs:
    """
    Natural log probabilities at one position, at temperature 1.

    Args:
        chosen (`float`): Of the token that was chosen.
        top (`list[tuple[int, float]]`): Ids of the likeliest tokens and theirs, the likeliest first.
    """

    chosen: float
    top: list[tuple[int, float]]


class RowSampler(LogitsProcessor):
    """
    Chooses the tokens of a batch, as a logits processor of a greedy `generate`.

    Args:
        settings (`Sequence[Sampling]`): Those of each row.
        generators (`Sequence[torch.Generator]`): The source of noise of each row.
        device (`torch.device`): Where the scores are.
    """

    def __init__(self, settings: Sequence[Sampling], generators: Sequence[torch.Generator], device: torch.device):
        self.settings, self.generators = settings, generators
        sampled = [row for row, setting in enumerate(settings) if setting.temperature > 0]
        self.sampled = torch.tensor(sampled, dtype=torch.long, device=device)
        self.sampled_rows = sampled
        temperatures = [max(settings[row].temperature, LEAST_TEMPERATURE) for row in sampled]
        self.temperatures = torch.tensor(temperatures, device=device).unsqueeze(-1)
        self.kept = [row for row, setting in enumerate(settings) if setting.top_logprobs is not None]
        self._logprobs: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`scores` `(B, vocabulary)` in which each row's next token has the highest one."""
        if self.kept:
            self._logprobs = scores[self.kept].log_softmax(dim=-1)
        if not self.sampled_rows:
            return scores
        sampled = scores[self.sampled]
        # The largest is 0 then, and stays so however small the temperature is, where others become minus infinity.
        sampled = (sampled - sampled.amax(dim=-1, keepdim=True)) / self.temperatures
        for index, row in enumerate(self.sampled_rows):
            if self.settings[row].top_p < 1:
                warper = TopPLogitsWarper(self.settings[row].top_p)
                sampled[index : index + 1] = warper(input_ids[row : row + 1], sampled[index : index + 1])
            # Minus the logarithm of an exponential variable is a Gumbel variable.
            sampled[index] -= torch.empty_like(sampled[index]).exponential_(generator=self.generators[row]).log()
        return scores.index_copy(0, self.sampled, sampled)

    def logprobs(self, tokens: Sequence[int]) -> dict[int, TokenLogprobs]:
        """
        The log probabilities of the last step, for the rows that keep them, by row.

        Args:
            tokens (`Sequence[int]`): The tokens that were chosen, of all rows.
        """
        if not self.kept:
            return {}
        most = max(self.settings[row].top_logprobs for row in self.kept)
        top_values, top_ids = (part.tolist() for part in self._logprobs.topk(min(most, self._logprobs.shape[-1])))
        chosen_ids = torch.tensor([tokens[row] for row in self.kept], device=self._logprobs.device)
        chosen = self._logprobs.gather(1, chosen_ids.unsqueeze(-1)).squeeze(-1).tolist()
        return {
            row: TokenLogprobs(
                chosen[index], list(zip(top_ids[index], top_values[index], strict=True))[: setting.top_logprobs]
            )
            for index, row in enumerate(self.kept)
            for setting in [self.settings[row]]
        }
