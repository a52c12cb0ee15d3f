"""The order of a source's chunks: a seeded bijection, new in each epoch, found without building it.

A chunk is seq_length + 1 tokens; neighbours share one token, so that every token but the first is predicted once.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

ROUNDS = 4  # Luby and Rackoff, 1988: four rounds of a random function make a pseudorandom permutation


@lru_cache(maxsize=4096)
def _key(*parts: object) -> bytes:
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()


def permute(index: int, size: int, key: bytes) -> int:
    """A bijection of range(size) chosen by ``key``: a Feistel network on the smallest even number of bits that holds
    ``size``, walked until it lands inside (fewer than four turns on average).

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
    """
    assert 0 <= index < size, f"index {index} is outside range({size})"
    half_bits = max(1, (max(1, (size - 1).bit_length()) + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for round_number in range(ROUNDS):
            digest = hashlib.blake2b(
                right.to_bytes(8, "little") + bytes([round_number]), digest_size=8, key=key
            ).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        index = left << half_bits | right
        if index < size:
            return index


@dataclass(frozen=True, kw_only=True)
class ChunkOrder:
    """The chunks of one source, epoch after epoch."""

    num_tokens: int
    """Tokens in the source."""
    seq_length: int
    """Predicted tokens per chunk."""
    key: str
    """What makes this order different from another: seed and source."""
    shuffle: bool = True
    """False gives the chunks as they lie, from the first token (held-out data)."""

    def __post_init__(self) -> None:
        if self.num_tokens < self.seq_length + 1:
            raise ValueError(
                f"data.seq_length ({self.seq_length}) needs sources of at least seq_length + 1 = {self.seq_length + 1} tokens and "
                f"{self.key} has {self.num_tokens}; data.seq_length={max(1, self.num_tokens - 1)} works"
            )

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks each epoch visits, each once. Where chunks are shuffled, one is given up so that their cuts can move."""
        whole = (self.num_tokens - 1) // self.seq_length
        return max(1, whole - 1) if self.shuffle else whole

    def start_token(self, rank_in_source: int) -> int:
        """First token of the rank-th chunk drawn from this source (0, 1, 2, ... through all epochs)."""
        epoch, index = divmod(rank_in_source, self.chunks_per_epoch)
        if not self.shuffle:
            return index * self.seq_length
        slack = self.num_tokens - 1 - self.chunks_per_epoch * self.seq_length
        offset = int.from_bytes(_key(self.key, "offset", epoch), "little") % (slack + 1)
        chunk = permute(index, self.chunks_per_epoch, _key(self.key, "epoch", epoch))
        return offset + chunk * self.seq_length
