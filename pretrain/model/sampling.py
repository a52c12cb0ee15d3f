"""Sampling of the next token: the likeliest, or one drawn among the likely."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fanal.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of sampling, checked when they are made."""

    temperature: float = 0.0
    """Divisor of the logits; 0 takes the likeliest token, whatever the other settings are."""
    top_k: int | None = None
    """Number of likeliest tokens to draw among; None for all."""
    top_p: float | None = None
    """Sum of probabilities that the likeliest tokens to draw among first reach; None for all. (Holtzman, arXiv:1904.09751)"""
    seed: int = 0
    """Seed of the draws: the same seed gives the same tokens on the same machine."""

    def __post_init__(self) -> None:
        """Check the values. Raises: UserError naming the first one out of range."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"temperature ({self.temperature}) must be a finite number of at least 0; 0 takes the likeliest token"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k ({self.top_k}) must be above 0; 50 works")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p ({self.top_p}) must be above 0 and at most 1; 0.95 works")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed ({self.seed}) must be an integer of at least 0 and below 2**63; 0 works")


class Sampler:
    """Sampler of the tokens of one text, on the CPU, so that the random generator is the same everywhere."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def choose(self, logits: Tensor) -> int:
        """Choose the next token. Args: logits: [v]. One device sync."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        probabilities = likely(logits.float().cpu(), self._sampling)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def likely(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the probabilities to draw with: temperature first, then top_k, then top_p.

    Args: logits: [v], float32; sampling: with a temperature above 0.
    """
    below_best = (
        logits.double() - logits.max()
    )  # so that no temperature, however small, makes infinities of the likeliest
    ordered, tokens = (below_best / sampling.temperature).float().sort(descending=True, stable=True)
    if sampling.top_k is not None:
        ordered[sampling.top_k :] = float("-inf")
    probabilities = ordered.softmax(dim=-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(dim=-1) - probabilities  # of all that are likelier
        is_behind = before >= sampling.top_p
        is_behind[0] = False  # a top_p that is 0 in float32 reaches no sum, and one token must stay
        probabilities = probabilities.masked_fill(is_behind, 0.0)
        probabilities /= probabilities.sum()
    return torch.zeros_like(probabilities).scatter(0, tokens, probabilities)
