"""The blocks of an index that a text may lie in."""

from collections.abc import Iterator

import numpy as np

from tokenizer.search.grams import GRAM_BYTES, grams_of
from tokenizer.search.index_file import SearchIndex, Tables
from tokenizer.search.scan import Range

MAX_ROWS = 64
"""Most hashes of a text that are looked up; more say little."""


def candidate_ranges(index: SearchIndex, wanted: bytes) -> list[Range]:
    """Return the ranges of tokens that every occurrence of the bytes lies in, ascending, none touching another.

    Raises: DamagedIndexError, PassingError.
    """
    tables = index.tables
    if len(wanted) < GRAM_BYTES:
        return [(0, int(tables.first_tokens[-1]))]
    hashes = np.unique(grams_of(wanted))
    chosen = hashes[np.linspace(0, len(hashes) - 1, min(len(hashes), MAX_ROWS)).astype(np.int64)]
    reaching = list(_reaching(tables, len(wanted)))
    may_begin = np.ones(len(tables.text_bytes), dtype=bool)
    for row in index.rows(chosen):
        held = row.copy()
        for steps, reaches in enumerate(reaching, 1):
            held[:-steps] |= reaches[:-steps] & row[steps:]
        may_begin &= held
    may_lie = may_begin.copy()
    for steps, reaches in enumerate(reaching, 1):
        may_lie[steps:] |= (may_begin & reaches)[:-steps]
    return _ranges(tables, may_lie)


def _reaching(tables: Tables, num_bytes: int) -> Iterator[np.ndarray]:
    """Yield, for 1, 2, ... blocks further on, whether a text of so many bytes that begins in each block can reach that block."""
    num_blocks = len(tables.text_bytes)
    reaches, between = np.ones(num_blocks, dtype=bool), np.zeros(num_blocks, dtype=np.int64)
    for steps in range(1, num_blocks):
        further = np.zeros(num_blocks, dtype=bool)
        further[:-steps] = tables.goes_on[steps:]
        # Behind its first byte, which may be the last of its block, and all of the blocks between.
        reaches = reaches & further & (between < num_bytes - 1)
        if not reaches.any():
            return
        yield reaches
        between[:-steps] += tables.text_bytes[steps:]


def _ranges(tables: Tables, chosen: np.ndarray) -> list[Range]:
    """Return the tokens of the chosen blocks; blocks that follow one another make one range."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    tokens = tables.first_tokens[changes].tolist()
    return list(zip(tokens[::2], tokens[1::2], strict=True))
