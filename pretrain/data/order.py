"""The order of a source's chunks: a seeded bijection, new in each epoch, found without building it.

A chunk is seq_length + 1 tokens; neighbours share one token, so that every token but the first is predicted once.

Everything here works on whole arrays of indices, and on many sources at once: a sample costs well under a microsecond.
Letters: n samples asked for, S sources.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fanal.errors import UserError
from fanal.splitmix import GOLDEN, mix64

ROUNDS = 6
"""Rounds of the Feistel network. Four make a pseudorandom permutation (Luby and Rackoff, 1988); two more even out tiny sizes."""
MIN_BITS = 6
"""Fewest bits that the network works on: on fewer, a few rounds do not reach every order about as often."""
_ONE = np.uint64(1)


def random_keys(name: str, count: int) -> np.ndarray:
    """``count`` (at most 8) 64-bit keys that a name stands for: uint64 [count]."""
    return np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8 * count).digest(), dtype="<u8").astype(np.uint64)


def permute(index: np.ndarray, size: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Bijections of range(size) chosen by ``keys``: where each index goes.

    A Feistel network on the bits that hold ``size - 1``, at least MIN_BITS, in two halves of which the right one may be a bit
    longer, walked until it lands inside: fewer than two turns on average, tiny sizes apart.
    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.

    Args:
        index: uint64 [n], each below its size.
        size: uint64 [n], from 1 to 2**53.
        keys: uint64 [ROUNDS, n] or [ROUNDS, 1].
    """
    return _walk(index, size, keys, range(len(keys)))


def unpermute(placed: np.ndarray, size: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the index that ``permute`` puts at each of these places. Args: as there."""
    return _walk(placed, size, keys, range(len(keys))[::-1])  # a round undoes itself


def _walk(index: np.ndarray, size: np.ndarray, keys: np.ndarray, rounds: range) -> np.ndarray:
    """Go through the network until each index has landed below its size again. The rounds backwards lead the same way back."""
    assert (index < size).all(), f"index {index[index >= size][0]} is outside range({size[index >= size][0]})"
    # The exponent of the float is the number of bits of size - 1, exact up to 2**53.
    bits = np.maximum(np.frexp((size - _ONE).astype(np.float64))[1], MIN_BITS).astype(np.uint64)
    placed = _feistel(index, bits, keys, rounds)
    outside = np.flatnonzero(placed >= size)
    while outside.size:
        again = _feistel(placed[outside], bits[outside], keys if keys.shape[1] == 1 else keys[:, outside], rounds)
        placed[outside] = again
        outside = outside[again >= size[outside]]
    return placed


def _feistel(index: np.ndarray, bits: np.ndarray, keys: np.ndarray, rounds: range) -> np.ndarray:
    """A bijection of range(2**bits): in turn, each half is changed by a function of the other one."""
    left_bits = bits >> _ONE
    right_bits = bits - left_bits
    left_mask, right_mask = (_ONE << left_bits) - _ONE, (_ONE << right_bits) - _ONE
    left, right = index >> right_bits, index & right_mask
    for number in rounds:
        key = keys[number]
        if number % 2 == 0:
            left = left ^ (mix64(right + key) & left_mask)
        else:
            right = right ^ (mix64(left + key) & right_mask)
    return left << right_bits | right


class Order(Protocol):
    """What the place of a draw is worked out from: offset + stride * permuted draw."""

    @property
    def key(self) -> str: ...
    @property
    def shuffle(self) -> bool: ...
    @property
    def stride(self) -> int: ...
    @property
    def slack(self) -> int: ...
    @property
    def chunks_per_epoch(self) -> int: ...


def check_long_enough(num_tokens: int, seq_length: int, name: str) -> None:
    """Refuse a source without a sample. Raises: UserError."""
    if num_tokens < seq_length + 1:
        shorter = ""
        if num_tokens > 1:  # a power of two, which divides among the ranks of a sequence, too
            shorter = f", and so does data.seq_length={1 << (num_tokens - 1).bit_length() - 1}"
        raise UserError(
            f"data.seq_length ({seq_length}) needs sources of at least seq_length + 1 = {seq_length + 1} tokens and "
            f"{name} has {num_tokens}; a longer source works{shorter}"
        )


@dataclass(frozen=True, kw_only=True)
class ChunkOrder:
    """The chunks of one source, epoch after epoch."""

    num_tokens: int
    """Tokens in the source that may be read."""
    seq_length: int
    """Predicted tokens per chunk."""
    key: str
    """Seed and source, which make this order different from another."""
    name: str
    """Name of the source in errors."""
    shuffle: bool = True
    """False gives the chunks as they lie, from the first token (validation data)."""

    def __post_init__(self) -> None:
        check_long_enough(self.num_tokens, self.seq_length, self.name)

    @property
    def stride(self) -> int:
        """Tokens from one chunk to the next."""
        return self.seq_length

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks each epoch visits, each once. Where chunks are shuffled, one is given up so that their cuts can move."""
        whole = (self.num_tokens - 1) // self.seq_length
        return max(1, whole - 1) if self.shuffle else whole

    @property
    def tokens_per_pass(self) -> int:
        """Tokens that count as one pass where a mixture is stated by epochs."""
        return self.num_tokens

    @property
    def slack(self) -> int:
        """Tokens an epoch leaves out, at its start and its end together."""
        return self.num_tokens - 1 - self.chunks_per_epoch * self.seq_length

    def start_tokens(self, draws: np.ndarray) -> np.ndarray:
        """First token of the chunks at these draws (0, 1, 2, ... through all epochs). Args and result: int64 [n]."""
        return ChunkOrders([self]).start_tokens(np.zeros(len(draws), np.int64), draws)

    def start_token(self, draw: int) -> int:
        """First token of the chunk at one draw."""
        return int(self.start_tokens(np.array([draw], np.int64))[0])


class ChunkOrders:
    """The orders of many sources side by side, so that a batch of samples from all of them is placed at once."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self._stride = np.array([order.stride for order in orders], np.int64)
        self._shuffle = np.array([order.shuffle for order in orders], bool)
        self._chunks = np.array([order.chunks_per_epoch for order in orders], np.uint64)
        self._slack = np.array([order.slack for order in orders], np.uint64)
        self._keys = np.stack([random_keys(order.key, ROUNDS + 1) for order in orders], axis=1)  # [ROUNDS + 1, S]

    def start_tokens(self, sources: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """First token, in its source, of each chunk; of packed rows, the number of each row.

        Draw number d from a source is chunk ``permute(d % chunks)`` of epoch ``d // chunks``, and each epoch
        lays its chunks from an offset of its own. Both come from the source's keys mixed with the epoch.

        Args: sources, draws: int64 [n].
        Returns: int64 [n].
        """
        chunks = self._chunks[sources]
        epoch, index = np.divmod(draws.astype(np.uint64), chunks)
        keys = self._keys_of(sources, epoch)
        chunk = np.where(self._shuffle[sources], permute(index, chunks, keys[:ROUNDS]), index).astype(np.int64)
        return self._offsets(sources, keys) + chunk * self._stride[sources]

    def epochs(self, sources: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Return the epoch of its source, from 0, that each draw belongs to. Args: int64 [n]. Returns: int64 [n]."""
        return draws // self._chunks[sources].astype(np.int64)

    def offsets(self, source: int, epochs: np.ndarray) -> np.ndarray:
        """Return the token from which a source's chunks are laid in each of these epochs. Args and result: int64 [n]."""
        sources = np.full(len(epochs), source)
        return self._offsets(sources, self._keys_of(sources, epochs.astype(np.uint64)))

    def draws_of(self, source: int, epochs: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        """Return the draws that give these chunks: ``start_tokens`` backwards.

        Args: epochs, chunks: int64 [n]; chunks count from 0 in their epoch, as they lie. Returns: int64 [n].
        """
        sources = np.full(len(epochs), source)
        size, epoch, chunk = self._chunks[sources], epochs.astype(np.uint64), chunks.astype(np.uint64)
        keys = self._keys_of(sources, epoch)
        index = np.where(self._shuffle[sources], unpermute(chunk, size, keys[:ROUNDS]), chunk)
        return (epoch * size + index).astype(np.int64)

    def _keys_of(self, sources: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Return the keys of each source in an epoch of it, uint64 [ROUNDS + 1, n]; epochs lie far apart before they are mixed."""
        return mix64(self._keys[:, sources] + epochs * GOLDEN)

    def _offsets(self, sources: np.ndarray, keys: np.ndarray) -> np.ndarray:
        shifted = keys[ROUNDS] % (self._slack[sources] + _ONE)
        return np.where(self._shuffle[sources], shifted, np.uint64(0)).astype(np.int64)
