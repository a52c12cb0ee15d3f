"""N-grams of held-out text, to be found in training text: exact, since a hash only says where to compare.

Text is a sequence of units (units.py): small whole numbers that stand for tokens or words. An n-gram has a 64-bit hash, polynomial
over the mixed units. The distinct n-grams of the held-out side lie in an array, sorted by hash. What is looked up first is a table
of bits by the hash's top bits, which nearly all n-grams of other text find at zero (a Bloom filter of one hash, small enough for a
core's caches); what it lets pass is looked up in the array, and what is found there is compared unit by unit.
"""

import functools

import numpy as np

from fanal.splitmix import GOLDEN, mix64

BASE = 0xD1342543DE82EF95
"""Factor of the polynomial: odd, and with random bits. A multiplier of Steele and Vigna, "Computationally Easy, Spectrally Good
Multipliers for Congruential Pseudorandom Number Generators", 2021."""
WORD = (1 << 64) - 1
SLOTS_PER_NGRAM = 32
"""Bits of the table for each n-gram, so that about 1 of 32 n-grams of other text is looked up."""
MIN_SLOTS, MAX_SLOTS = 1 << 16, 1 << 32
COMPARED_NGRAMS = 1 << 18
"""N-grams that are compared at once."""


def mixed_units(num_units: int) -> np.ndarray:
    """Return the mixed value of each unit: uint64 [num_units]."""
    with np.errstate(over="ignore"):
        return mix64((np.arange(num_units, dtype=np.uint64) + np.uint64(1)) * GOLDEN)


def ngram_hashes(units: np.ndarray, n: int, mixed: np.ndarray) -> np.ndarray:
    """Return the hash of each n consecutive units: uint64 [len(units) - n + 1], or none.

    Windows double in width, so an n-gram costs about 2 log2(n) multiplications rather than n. Args: mixed: ``mixed_units``.
    """
    count = len(units) - n + 1
    if count < 1:
        return np.empty(0, np.uint64)
    window, width = mixed[units], 1
    hashes, done = window, 0
    while True:
        if n & width:
            hashes = hashes[: len(window) - done] * _power(width) + window[done:] if done else window
            done += width
        if done == n:
            return hashes[:count]
        window = window[:-width] * _power(width) + window[width:]
        width *= 2


@functools.cache
def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(BASE, exponent, 1 << 64))


class NgramIndex:
    """Distinct n-grams of some documents.

    Attributes: num_ngrams; ngram_of, int64 [units]: the n-gram that begins at each unit, -1 where none does, since its document
    ends before. Memory: 12 bytes a unit and up to 40 bytes an n-gram, and three times that while it is made.
    """

    def __init__(self, units: np.ndarray, offsets: np.ndarray, n: int, *, num_units: int) -> None:
        """Args: units: int32 [units] below num_units, of documents that begin at offsets: int64 [documents + 1]."""
        self.n = n
        self._units = units
        self._mixed = mixed_units(num_units)
        ends = np.repeat(offsets[1:], np.diff(offsets))
        places = np.flatnonzero(np.arange(len(units)) + n <= ends)
        assert len(places), "no document has n units"
        hashes = ngram_hashes(units, n, self._mixed)[places]
        places, hashes, is_first = self._sorted(places, hashes)
        self.num_ngrams = int(is_first.sum())
        self.ngram_of = np.full(len(units), -1, dtype=np.int64)
        self.ngram_of[places] = np.cumsum(is_first) - 1
        self._hashes, self._first_places = hashes[is_first], places[is_first]
        slots = min(max(self.num_ngrams * SLOTS_PER_NGRAM, MIN_SLOTS), MAX_SLOTS)
        self._shift = np.uint64(64 - (slots - 1).bit_length())
        self._table = np.zeros(1 << (61 - int(self._shift)), dtype=np.uint8)
        slot = self._hashes >> self._shift
        np.bitwise_or.at(
            self._table, (slot >> np.uint64(3)).view(np.int64), np.uint8(1) << (slot.astype(np.uint8) & np.uint8(7))
        )
        # Where the hashes of each bucket begin, by their top bits: about one hash a bucket, so nothing is searched for.
        self._bucket_shift = np.uint64(64 - max(1, self.num_ngrams.bit_length()))
        buckets = np.arange(1 << (64 - int(self._bucket_shift)), dtype=np.uint64) << self._bucket_shift
        self._bucket_starts = np.searchsorted(self._hashes, buckets)

    def find(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (places, n-grams) where an n-gram of the index begins in other text: int64 [found] both, places ascending.

        Args: units: integers [units] below num_units.
        """
        hashes = ngram_hashes(units, self.n, self._mixed)
        slots = hashes >> self._shift
        bits = self._table.take((slots >> np.uint64(3)).view(np.int64)) >> (slots.astype(np.uint8) & np.uint8(7))
        places = np.flatnonzero(bits & np.uint8(1))
        hashes = hashes[places]
        ngrams = self._bucket_starts[(hashes >> self._bucket_shift).view(np.int64)]
        found_places, found_ngrams = [], []
        while len(places):
            inside = ngrams < self.num_ngrams
            inside[inside] = self._hashes[ngrams[inside]] <= hashes[inside]
            places, ngrams, hashes = places[inside], ngrams[inside], hashes[inside]
            equal = self._hashes[ngrams] == hashes
            at = np.flatnonzero(equal)
            equal[at] = _equal(units, places[at], self._units, self._first_places[ngrams[at]], self.n)
            found_places.append(places[equal])
            found_ngrams.append(ngrams[equal])
            # Until it is found, the n-gram may come later in the array, behind lower hashes or others with its own.
            places, ngrams, hashes = places[~equal], ngrams[~equal] + 1, hashes[~equal]
        if not found_places:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        places, ngrams = np.concatenate(found_places), np.concatenate(found_ngrams)
        order = np.argsort(places, kind="stable")
        return places[order], ngrams[order]

    def _sorted(self, places: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (places, hashes, whether an n-gram is not the one before it): hashes ascending, equal n-grams together."""
        order = np.argsort(hashes, kind="stable")
        places, hashes = places[order], hashes[order]
        new_hash = np.append(True, hashes[1:] != hashes[:-1])
        is_first = new_hash | self._differs_from_last(places)
        if (collides := np.flatnonzero(is_first & ~new_hash)).size:
            starts = np.flatnonzero(new_hash)
            ends = np.append(starts[1:], len(places))
            for group in np.unique(np.searchsorted(starts, collides, side="right") - 1).tolist():
                held = slice(starts[group], ends[group])
                places[held] = sorted(places[held].tolist(), key=lambda at: self._units[at : at + self.n].tobytes())
            is_first = new_hash | self._differs_from_last(places)
        return places, hashes, is_first

    def _differs_from_last(self, places: np.ndarray) -> np.ndarray:
        """Return whether the n-gram at each place is another one than that at the place before: bool [places]."""
        return np.append(True, ~_equal(self._units, places[1:], self._units, places[:-1], self.n))


def _equal(here: np.ndarray, here_at: np.ndarray, there: np.ndarray, there_at: np.ndarray, n: int) -> np.ndarray:
    """Return whether n units are the same from each pair of places on: bool [places]."""
    equal = np.empty(len(here_at), dtype=bool)
    steps = np.arange(n)
    for first in range(0, len(here_at), COMPARED_NGRAMS):
        held = slice(first, first + COMPARED_NGRAMS)
        equal[held] = (here[here_at[held, None] + steps] == there[there_at[held, None] + steps]).all(axis=1)
    return equal
