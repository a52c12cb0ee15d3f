"""Integer mixing behind every order here: of documents in a shard, of chunks in an epoch, of sources in a block."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def mix64(values: np.ndarray) -> np.ndarray:
    """Mix 64-bit integers by a bijection in which every input bit moves every output bit with probability near 1/2.

    Args: uint64 array of one or more dims. Source: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    mixed = values ^ (values >> _SHIFTS[0])
    mixed *= _MULTIPLIERS[0]
    mixed ^= mixed >> _SHIFTS[1]
    mixed *= _MULTIPLIERS[1]
    mixed ^= mixed >> _SHIFTS[2]
    return mixed
