"""How many tokens of each document were read, by the parts of a run: exact, in one walk over a shard's index, reading no token.

A token counts each time that it is predicted, so that all of them together are the tokens that a run has consumed, less what fills
packed rows. It was read if it was input or predicted, and so was a document if one of its tokens was.

Letters: D documents of a block, P parts of a run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.data.order import ChunkOrder
from pretrain.data.packing.packed_order import PackedOrder
from pretrain.ledger.reads import Spans, reads_of
from tokenizer.shards.shard import Shard

BLOCK_DOCUMENTS = 2**16
BLOCK_TOKENS = 2**32
"""Documents, and tokens, that are counted at once; one document that is longer is a block of its own."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """The draws [first_draw, end_draw) of one source, which one part of a run took."""

    part: int
    order: ChunkOrder | PackedOrder
    first_draw: int
    end_draw: int


@dataclass(frozen=True, kw_only=True)
class DocumentCounts:
    """Consecutive documents of a shard."""

    first_document: int
    bounds: np.ndarray
    """Token at which each begins, and the last one ends: int64 [D + 1]."""
    tokens: np.ndarray
    """Tokens that each part predicted, repeats included: int64 [P, D]."""
    distinct: np.ndarray
    """Different tokens that each part read: int64 [P, D]."""
    distinct_in_all: np.ndarray
    """Different tokens that any of them read: int64 [D]."""


def count_documents(shard: Shard, uses: Sequence[Use], *, num_parts: int) -> Iterator[DocumentCounts]:
    """Count what each document of a shard gave, block by block, up to the shard's end: no use reads what is held out.

    Memory: one byte for each chunk, or eight for each row, of an epoch that a use read in part, and the spans of a block.
    """
    opened = [
        (use.part, reads_of(use.order, use.first_draw, use.end_draw)) for use in uses if use.end_draw > use.first_draw
    ]
    for first_document, bounds in document_blocks(shard):
        size = len(bounds) - 1
        tokens, distinct = np.zeros((num_parts, size), np.int64), np.zeros((num_parts, size), np.int64)
        spans = [(part, reads.within(int(bounds[0]), int(bounds[-1]))) for part, reads in opened]
        for part, of_use in spans:
            tokens[part] += predicted_in(of_use, bounds)
        for part in {part for part, _ in spans}:
            distinct[part] = distinct_in([of_use for owner, of_use in spans if owner == part], bounds)
        yield DocumentCounts(
            first_document=first_document,
            bounds=bounds,
            tokens=tokens,
            distinct=distinct,
            distinct_in_all=distinct_in([of_use for _, of_use in spans], bounds),
        )


def document_blocks(shard: Shard) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the first document, where each begins, and the last ends: int64 [D + 1]) of consecutive documents."""
    first, token = 0, 0
    for lengths in shard.document_lengths(BLOCK_DOCUMENTS):
        bounds = token + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        at = 0
        while at < len(lengths):
            end = int(np.searchsorted(bounds, bounds[at] + BLOCK_TOKENS, side="right")) - 1
            end = min(max(end, at + 1), len(lengths))
            yield first + at, bounds[at : end + 1]
            at = end
        first, token = first + len(lengths), int(bounds[-1])


def predicted_in(spans: Spans, bounds: np.ndarray) -> np.ndarray:
    """Tokens between neighbouring bounds that the spans predict, each as often as it is: int64 [bounds - 1]."""
    before = _ramp(spans.starts + 1, spans.times, bounds) - _ramp(spans.ends, spans.times, bounds)
    return np.diff(before)


def distinct_in(parts: Sequence[Spans], bounds: np.ndarray) -> np.ndarray:
    """Different tokens between neighbouring bounds that are in any of the spans: int64 [bounds - 1]."""
    starts = np.concatenate([spans.starts for spans in parts] or [np.empty(0, np.int64)])
    if not len(starts):
        return np.zeros(len(bounds) - 1, np.int64)
    ends = np.concatenate([spans.ends for spans in parts])
    by_start = np.argsort(starts, kind="stable")
    starts, reached = starts[by_start], np.maximum.accumulate(ends[by_start])
    begins = np.concatenate([[True], starts[1:] > reached[:-1]])  # a gap, and a new stretch behind it
    firsts = np.flatnonzero(begins)
    starts, ends = starts[firsts], reached[np.append(firsts[1:], len(reached)) - 1]
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    at = np.searchsorted(starts, bounds, side="right") - 1  # the stretch that begins last
    covered = np.where(at < 0, 0, before[at] + np.minimum(bounds - starts[at], lengths[at]))
    return np.diff(covered)


def _ramp(places: np.ndarray, times: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Sum of times * (bound - place) over the places below each bound: int64 [bounds].

    It may wrap modulo 2**64; differences that are smaller are exact all the same.
    """
    by_place = np.argsort(places, kind="stable")
    places, times = places[by_place], times[by_place]
    at = np.searchsorted(places, bounds, side="left")
    count, weighted = (np.concatenate([[0], np.cumsum(values)])[at] for values in (times, times * places))
    return count * bounds - weighted
