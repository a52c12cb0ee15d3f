"""The hash of samples: of each, its number and its tokens; of many, the sum of theirs. Letters: n samples, s sequence.

The tokens are those that were read: what objectives make of them follows from the configuration.

A sum knows no order, so every layout of a run has the same one. It finds accidents. Whoever may choose the tokens of many
samples can make two sets of one sum, so against an opponent the hashes of whole shards count.

A run keeps the algorithm that it began with, since a sum of two kinds of hashes would be the sum of neither.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from blake3 import blake3

from tokenizer.shards.manifest import DTYPES, dtype_for

Lanes = tuple[int, int]
"""Two integers modulo 2**64."""
NEW_RUN = "blake3"
"""Algorithm of a run that begins: the first 128 bits of BLAKE3 of the number as uint64 and the tokens, little-endian, in the type
that a shard of this vocabulary has."""
UNNAMED = "blake2b"
"""Algorithm of a run whose hashes have no name, since an earlier version began it: blake2b with 128 bits, tokens as int32."""
_DIGESTS: dict[str, Callable[[Any], bytes]] = {
    NEW_RUN: lambda content: blake3(content).digest(16),
    UNNAMED: lambda content: hashlib.blake2b(content, digest_size=16).digest(),
}
_TEXT = re.compile(rf"({NEW_RUN}:)?[0-9a-f]{{32}}")


class SampleHasher:
    """The hash of samples by one algorithm. What is hashed of a sample lies in one piece, its *content*, so that one call hashes
    it: the number, then the tokens."""

    def __init__(self, algorithm: str, *, vocab_size: int, seq_length: int) -> None:
        self.algorithm = algorithm
        self._digest = _DIGESTS[algorithm]
        self.dtype = DTYPES["int32" if algorithm == UNNAMED else dtype_for(vocab_size)]
        """Type of the contents."""
        self._number_items = 8 // self.dtype.itemsize
        self.content_items = self._number_items + seq_length + 1
        """Length of a content: the number has that of two or four tokens."""

    def write_numbers(self, contents: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Begin these contents, [n, content_items], with the samples' numbers, int64 [n]. Returns: the place of their tokens."""
        contents[:, : self._number_items] = numbers.astype("<u8")[:, None].view(self.dtype)
        return contents[:, self._number_items :]

    def each(self, contents: np.ndarray) -> np.ndarray:
        """The hash of each sample as two lanes: uint64 [n, 2]. Args: contents: [n, content_items]."""
        return np.frombuffer(b"".join(map(self._digest, contents.view(np.uint8))), "<u8").reshape(-1, 2)

    def sum(self, contents: np.ndarray) -> Lanes:
        """The hash of all of them. Args: as ``each``."""
        low, high = self.each(contents).sum(axis=0, dtype=np.uint64).tolist()
        return low, high


def add(left: Lanes, right: Lanes) -> Lanes:
    """The hash of both sets of samples."""
    return (left[0] + right[0]) % 2**64, (left[1] + right[1]) % 2**64


def to_text(lanes: Lanes, algorithm: str) -> str:
    """The algorithm's name, a colon, and both lanes, 16 hexadecimal digits each; UNNAMED goes without its name."""
    return f"{'' if algorithm == UNNAMED else f'{algorithm}:'}{lanes[0]:016x}{lanes[1]:016x}"


def is_text(text: str) -> bool:
    """Whether this is what ``to_text`` gives."""
    return _TEXT.fullmatch(text) is not None


def algorithm_of(text: str) -> str:
    """The algorithm of a hash from ``to_text``."""
    return text.rpartition(":")[0] or UNNAMED


def lanes_of(text: str) -> Lanes:
    """The inverse of ``to_text``."""
    digits = text.rpartition(":")[2]
    return int(digits[:16], 16), int(digits[16:], 16)
