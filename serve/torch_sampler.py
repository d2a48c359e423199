# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The next token of each row of a batch in torch: greedy rows and sampled rows share one `generate`. To the scores of a
sampled row Gumbel noise is added, and the largest of such sums is a sample of the softmax; so `generate` decodes
greedily, and a row's noise is its own, whatever rows are beside it.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, TopPLogitsWarper

from flashsloth.serve.sampling import Sampling, TokenLogprobs


def new_generator(sampling: Sampling, device: torch.device) -> torch.Generator:
    """The source of the noise of one answer."""
    return torch.Generator(device).manual_seed(sampling.noise_seed())


class RowSampler(LogitsProcessor):
    """
    Chooses the tokens of a batch, as a logits processor of a greedy `generate`.

    Args:
        settings (`Sequence[Sampling]`): Those of each row.
        generators (`Sequence[torch.Generator]`): The source of noise of each row, by [`new_generator`].
        device (`torch.device`): Where the scores are.
    """

    def __init__(self, settings: Sequence[Sampling], generators: Sequence[torch.Generator], device: torch.device):
        self.settings, self.generators = settings, generators
        sampled = [row for row, setting in enumerate(settings) if setting.temperature > 0]
        self.sampled = torch.tensor(sampled, dtype=torch.long, device=device)
        self.sampled_rows = sampled
        temperatures = [settings[row].temperature for row in sampled]
        self.temperatures = torch.tensor(temperatures, device=device).unsqueeze(-1)
        self.kept = [row for row, setting in enumerate(settings) if setting.top_logprobs is not None]
        self._logprobs: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`scores` `(B, vocabulary)` in which each row's next token has the highest one."""
        if self.kept:
            self._logprobs = scores[self.kept].log_softmax(dim=-1)
        if not self.sampled_rows:
            return scores
        sampled = scores[self.sampled] / self.temperatures
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
