"""Hashes that carry the name of their algorithm: ``blake3:`` or ``sha256:``, and the digest in hexadecimal digits.

Keys called ``sha256`` hold 64 digits of SHA-256 alone, without a name. Which hash stands where, and who checks it with what:
docs/checkpoints.md.
"""

import hashlib
import re
from typing import Protocol

from blake3 import blake3

FAST = "blake3"
"""Algorithm of what Fanal itself checks. One core hashes with it four to five times as much as with SHA-256, and finding two
inputs of one digest is as hard."""
STANDARD = "sha256"
"""Algorithm of what others check, with the tools of any machine and of the Hugging Face hub."""
_ALGORITHMS = {FAST: blake3, STANDARD: hashlib.sha256}
_TEXT = re.compile(rf"({'|'.join(_ALGORITHMS)}):([0-9a-f]{{64}})")


class Hash(Protocol):
    """A hash of bytes that come in pieces. ``update`` lets other threads run while it hashes."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Hash the next bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far, in hexadecimal digits."""
        ...


def new_hash(algorithm: str) -> Hash:
    """Return the hash of no bytes yet. Args: algorithm is FAST or STANDARD."""
    return _ALGORITHMS[algorithm]()


def hash_text(algorithm: str, digest: Hash) -> str:
    """Return the digest of ``digest``, a hash of this algorithm, with its name."""
    return f"{algorithm}:{digest.hexdigest()}"


def is_hash_text(text: str) -> bool:
    """Whether the text is a hash with the name of an algorithm that this version knows."""
    return _TEXT.fullmatch(text) is not None


def algorithm_of(text: str) -> str:
    """Return the name of the algorithm of a hash with its name."""
    return text.partition(":")[0]


def digits_of(text: str) -> str:
    """Return the hexadecimal digits of a hash with its name."""
    return text.partition(":")[2]
