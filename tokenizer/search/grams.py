"""Runs of four bytes, by which a text is known to be missing from a block of documents without reading it."""

import numpy as np

GRAM_BYTES = 4
NUM_ROWS = 1 << 14
"""Number of hashes of a run."""
_MULTIPLIER = np.uint32(0x9E3779B1)
_SHIFT = np.uint32(32 - 14)


def grams_of(content: bytes) -> np.ndarray:
    """Return the hash of each run of GRAM_BYTES bytes: uint32 [bytes - 3], each below NUM_ROWS; [0] of a shorter text."""
    count = max(0, len(content) - GRAM_BYTES + 1)
    runs = np.ndarray((count,), dtype="<u4", buffer=content, strides=(1,)) if count else np.zeros(0, dtype="<u4")
    return (runs * _MULTIPLIER) >> _SHIFT
