"""What an objective is: something that changes samples in place, by arithmetic of their numbers and tokens alone.

Letters: n samples, s sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tokenizer.shards.shard import Shard


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Some samples between their shards and a batch. Objectives change ``tokens`` and ``counted`` in place."""

    numbers: np.ndarray
    """int64 [n]: their numbers in the run."""
    tokens: np.ndarray
    """Integers [n, s + 1]: as they were read, and what objectives made of them."""
    counted: np.ndarray
    """bool [n, s]: whether the prediction of token p counts, at p - 1; token 0 is not predicted."""
    document_starts: Sequence[np.ndarray] | None
    """Positions 1 to s where a document starts, per row; None if nobody asked for them."""
    shards: Sequence[Shard]
    """The shard of each."""
    pieces: Sequence[Sequence[tuple[int, int]]]
    """Of each, the parts of the shard that it is made of: (position in the sample, token in the shard) where each begins. A
    sample of concatenated documents is one, from position 0 on."""


class Objective(Protocol):
    """One objective of a run, made of its keys and of the tokenizer."""

    def apply(self, samples: Samples) -> None:
        """Change these samples, each by itself: what else is in the batch makes no difference."""
        ...


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """All objectives of a run, in the order in which they act: first those that change tokens, then those that count them."""

    training: tuple[Objective, ...] = ()
    validation: tuple[Objective, ...] = ()
    """Those that say what text is to be predicted. What changes tokens, or leaves some out at random, is not among them."""
    reads_index: bool = False
    """Whether one of them depends on where documents begin."""


def new_counts(tokens: np.ndarray) -> np.ndarray:
    """Every prediction counts: bool [n, s]. Args: tokens: [n, s + 1]."""
    return np.ones((len(tokens), tokens.shape[1] - 1), dtype=bool)
