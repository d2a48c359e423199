# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""How the tokens of one answer are chosen. Each row of a batch has settings of its own."""

import random
import secrets
from dataclasses import dataclass


SEED_BITS = 63


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

    def noise_seed(self) -> int:
        """Seed of the noise of this answer alone; another one each time if `seed` is unset."""
        if self.seed is None:
            return secrets.randbits(SEED_BITS)
        return random.Random(f"{self.seed} {self.index}").getrandbits(SEED_BITS)


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
