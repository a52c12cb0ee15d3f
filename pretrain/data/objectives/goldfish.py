"""Goldfish loss: one token in k is never predicted, and which one follows from the h tokens before it.

Wherever a text is repeated, the same tokens are left out, so that a model cannot learn it by heart word for word.
Source: Hans et al., "Be like a Goldfish, Don't Memorize!", 2024, arXiv:2406.10209. The hash is ours: whole numbers of 64 bits, the
same on every machine. The paper's code multiplies the h ids that end with the token itself, and looks up a table of random floats
(docs/objectives.md).
"""

from collections.abc import Sequence

import numpy as np

from fanal.splitmix import GOLDEN, mix64
from pretrain.data.objectives.samples import Samples

MULTIPLIER = np.uint64(0xD1342543DE82EF95)
"""Base of the polynomial, odd. Source: Steele and Vigna, "Computationally easy, spectrally good multipliers", 2021."""
_INVERSE = np.uint64(pow(int(MULTIPLIER), -1, 2**64))


class Goldfish:
    """Leave out token p if mix64(H) < floor(2**64 / k), where H, modulo 2**64, is the sum over j = 1 .. h of
    mix64(token[p - j] + GOLDEN) * MULTIPLIER**(j - 1). The first h tokens of a sample always count."""

    def __init__(self, *, k: int, h: int, exempt: np.ndarray, within_documents: bool) -> None:
        """Args:
        exempt: whether an id always counts, bool [vocab_size].
        within_documents: True lets the first h tokens of each document count too, so that no context crosses its start.
        """
        self._threshold, self._h = np.uint64(2**64 // k), h
        self._exempt, self._within_documents = exempt, within_documents

    def apply(self, samples: Samples) -> None:
        """See the class."""
        tokens, h = samples.tokens, self._h
        if tokens.shape[1] <= h:
            return
        dropped = mix64(context_hashes(tokens, h)) < self._threshold  # [n, s + 1 - h], of tokens h .. s
        dropped &= ~self._exempt[tokens[:, h:]]
        if self._within_documents:
            assert samples.document_starts is not None, "contexts end where documents begin"
            dropped &= since_start(samples.document_starts, tokens.shape[1])[:, h:] >= h
        samples.counted[:, h - 1 :] &= ~dropped


def context_hashes(tokens: np.ndarray, h: int) -> np.ndarray:
    """H of the tokens h .. s: uint64 [n, s + 1 - h].

    Prefix sums of value * MULTIPLIER**-p give each window as a difference: a token costs the same whatever h is.
    Args: tokens: integers [n, s + 1].
    """
    values = mix64(tokens.astype(np.uint64) + GOLDEN)
    length = tokens.shape[1]
    inverse_powers = np.cumprod(np.concatenate((np.ones(1, np.uint64), np.full(length - 1, _INVERSE))), dtype=np.uint64)
    sums = np.zeros((len(tokens), length + 1), np.uint64)
    np.cumsum(values * inverse_powers, axis=1, dtype=np.uint64, out=sums[:, 1:])
    powers = np.cumprod(np.full(length, MULTIPLIER), dtype=np.uint64)  # MULTIPLIER**(p - 1) of token p stands at p - 2
    windows = sums[:, h:-1] - sums[:, : length - h]  # of token p: values of p - h .. p - 1
    scale = np.concatenate((np.ones(1, np.uint64), powers))[h - 1 : length - 1]
    return windows * scale


def since_start(document_starts: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Distance of each token from the first one of its document in the row: int64 [n, length]."""
    at = np.arange(length)
    firsts = np.zeros((len(document_starts), length), np.int64)
    for first, starts in zip(firsts, document_starts, strict=True):
        first[starts] = starts
    return at - np.maximum.accumulate(firsts, axis=1)
