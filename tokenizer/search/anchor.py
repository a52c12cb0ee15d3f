"""The tokens that may lie over a text, and the place in it where the fewest of a shard's tokens do.

However a text was cut into tokens, exactly one token holds its byte p. The tokens that can are known: those whose bytes agree with
the text where they lie over it. So the ids of a shard are looked up in one table of flags, and only around those with a flag is
anything decoded. Nothing is missed, whatever the tokens before and behind the text are.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

KEY_BYTES = 256
"""Bytes of a text, from the first on, among which the place is chosen: a longer text occurs only where these do."""


@dataclass(frozen=True)
class Anchor:
    """A byte of a text, and the tokens that may hold it."""

    byte: int
    """Number of the byte in the text."""
    may_hold: np.ndarray
    """Whether each id may hold it: bool [vocab_size], as the others."""
    may_begin: np.ndarray
    """Whether each id may hold it with nothing of the text before."""
    may_precede: np.ndarray
    """Whether each id may lie before one that holds it. Ids without bytes always may."""
    may_end: np.ndarray
    """Whether each id may hold it with nothing of the text behind."""
    may_follow: np.ndarray
    """Whether each id may lie behind one that holds it, likewise."""

    def holders(self, tokens: np.ndarray, start: int, end: int) -> np.ndarray:
        """Return which of the tokens from start to end hold the byte, as far as they and their neighbours tell: int64.

        The neighbour may be of another document, or be missing. An occurrence goes no further then, and the token may end it.
        Raises: IndexError for an id that is not in the vocabulary.
        """
        found = np.flatnonzero(self.may_hold.take(tokens[start:end])) + start
        behind = tokens[np.minimum(found + 1, len(tokens) - 1)]
        found = found[self.may_end.take(tokens[found]) | self.may_follow.take(behind)]
        before = tokens[np.maximum(found - 1, 0)]
        return found[self.may_begin.take(tokens[found]) | self.may_precede.take(before)]


class Placements:
    """Every token of a vocabulary at every place where it may lie over a text."""

    def __init__(self, pieces: Sequence[bytes], text: bytes) -> None:
        self._vocab_size, self._size = len(pieces), min(len(text), KEY_BYTES)
        rows = np.array(list(_placements(pieces, text[:KEY_BYTES])), dtype=np.int64).reshape(-1, 3)
        self._tokens, begins, ends = rows.T
        self._begins, self._ends = np.maximum(begins, 0), np.minimum(ends, self._size)
        self._silent = np.array([not piece for piece in pieces])

    def anchor(self, counts: np.ndarray) -> Anchor:
        """Return the byte that the fewest tokens of a shard may hold. Args: counts: how often each id occurs, int [vocab_size]."""
        weights = counts[self._tokens] + 1e-3
        changes = np.bincount(self._begins, weights, self._size + 1) - np.bincount(self._ends, weights, self._size + 1)
        byte = int(np.argmin(np.cumsum(changes)[: self._size]))
        begins, ends = self._begins, self._ends
        holds = (begins <= byte) & (byte < ends)
        return Anchor(
            byte=byte,
            may_hold=self._flags(holds),
            may_begin=self._flags(holds & (begins == 0)),
            may_precede=self._flags(np.isin(ends, begins[holds])) | self._silent,
            may_end=self._flags(holds & (ends == self._size)),
            may_follow=self._flags(np.isin(begins, ends[holds])) | self._silent,
        )

    def _flags(self, chosen: np.ndarray) -> np.ndarray:
        """Return which ids are among the chosen placements: bool [vocab_size]."""
        flags = np.zeros(self._vocab_size, dtype=bool)
        flags[self._tokens[chosen]] = True
        return flags


def _placements(pieces: Sequence[bytes], text: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (token, byte of the text at which it begins, byte at which it ends); it may begin before the text and end behind."""
    inside: dict[bytes, list[int]] = defaultdict(list)
    longest, size = max(map(len, pieces)), len(text)
    for token, piece in enumerate(pieces):
        inside[piece].append(token)
    for begin in range(size):
        for end in range(begin + 1, min(begin + longest, size) + 1):
            for token in inside.get(text[begin:end], ()):
                yield token, begin, end
    for piece, tokens in inside.items():
        for begin, end in _beyond(piece, text):
            for token in tokens:
                yield token, begin, end


def _beyond(piece: bytes, text: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a piece may lie so that it begins before a text, or ends behind it, or both."""
    for common in range(1, min(len(piece) - 1, len(text)) + 1):
        if piece.endswith(text[:common]):
            yield common - len(piece), common
        if piece.startswith(text[-common:]):
            yield len(text) - common, len(text) - common + len(piece)
    at = piece.find(text, 1)
    while 0 < at < len(piece) - len(text):
        yield -at, len(piece) - at
        at = piece.find(text, at + 1)


def sampled_counts(tokens: np.ndarray, vocab_size: int, *, pieces: int = 32, piece_tokens: int = 4096) -> np.ndarray:
    """Return how often each id occurs in some pieces of a shard's tokens: int64 [vocab_size]. Raises: IndexError."""
    starts = sorted({len(tokens) * piece // pieces for piece in range(pieces)})
    sample = np.concatenate([tokens[start : start + piece_tokens] for start in starts])
    if int(sample.max()) >= vocab_size:
        raise IndexError("an id is not in the vocabulary")
    return np.bincount(sample, minlength=vocab_size)
