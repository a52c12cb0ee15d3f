"""The pieces that documents have in a sample, and the numbers that decide what becomes of each.

Every decision is arithmetic of the run's seed, the sample's number and the place of the piece in it: the same in every layout and
after every resume, and another one in each epoch, since a sample's number comes once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from fanal.splitmix import GOLDEN, mix64
from pretrain.data.objectives.samples import Samples
from pretrain.data.order import random_keys


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Decides which pieces an objective takes: those whose first word, as a share of 2**64, lies in [start, start + rate)."""

    key: np.uint64
    start: Fraction
    rate: Fraction

    def takes(self, word: int) -> bool:
        """Whether a piece with this first word is taken."""
        return self.start * 2**64 <= word < (self.start + self.rate) * 2**64


def objective_key(seed: int) -> np.uint64:
    """The key of a run with this data.seed."""
    return random_keys(f"{seed}/objective", 1)[0]


class Words:
    """The words of one piece: 64-bit numbers. Word i is mix64(state + (i + 1) * GOLDEN), where the state is
    mix64(mix64(key + sample) + first), all modulo 2**64."""

    def __init__(self, key: np.uint64, sample: int, first: int) -> None:
        """Args: sample: its number; first: position of the piece's first token in the sample."""
        self._state = mix64(mix64(np.array([sample], np.uint64) + key) + np.uint64(first))

    def __call__(self, first: int, count: int) -> np.ndarray:
        """Words first .. first + count - 1: uint64 [count]."""
        return mix64(self._state + np.arange(first + 1, first + count + 1, dtype=np.uint64) * GOLDEN)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of a document that lies in a sample, without the tokens at its ends that stand for no text."""

    row: int
    body: slice
    """Its positions in the sample."""
    words: Words


def pieces_taken(samples: Samples, chance: Chance, control: np.ndarray, marks: np.ndarray) -> Iterator[Piece]:
    """The pieces that an objective takes. One that already holds a mark of the objective is left as it is.

    Args: control: whether an id stands for no text, bool [vocab_size]; marks: ids.
    """
    assert samples.document_starts is not None, "pieces are of documents"
    length = samples.tokens.shape[1]
    for row, (number, starts) in enumerate(zip(samples.numbers.tolist(), samples.document_starts, strict=True)):
        for first, end in pairwise([0, *starts.tolist(), length]):
            words = Words(chance.key, number, first)
            if not chance.takes(int(words(0, 1)[0])):
                continue
            text = np.flatnonzero(~control[samples.tokens[row, first:end]])
            if not text.size:
                continue
            body = slice(first + int(text[0]), first + int(text[-1]) + 1)
            if not np.isin(samples.tokens[row, body], marks).any():
                yield Piece(row=row, body=body, words=words)
