"""Which token comes next: the likeliest, or one drawn among the likely."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fanal.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose. Holds the rules between its values."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token, whatever the rest says."""
    top_k: int | None = None
    """Draw among this many of the likeliest; None among all."""
    top_p: float | None = None
    """Draw among the likeliest whose probabilities first reach this sum; None among all. (Holtzman et al., arXiv:1904.09751)"""
    seed: int = 0
    """Of the draws: the same seed gives the same tokens on the same machine."""

    def __post_init__(self) -> None:
        """Raises: UserError naming the first value that cannot be."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature ({self.temperature}) must be a number from 0; 0 takes the likeliest token")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k ({self.top_k}) must be above 0; 50 works")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p ({self.top_p}) must be above 0 and at most 1; 0.95 works")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed ({self.seed}) must be an integer from 0; 0 works")


class Sampler:
    """Draws token after token of one text. On the CPU, so that the generator is the same everywhere."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def choose(self, logits: Tensor) -> int:
        """The next token. Args: logits [v]. One device sync."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        probabilities = likely(logits.float().cpu(), self._sampling)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def likely(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities to draw with: temperature first, then top_k, then top_p. Args: logits [v], float32; temperature above 0."""
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
