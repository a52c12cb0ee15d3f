"""Which tokens of a source a range of its draws reads, as spans, without a list of the draws.

A whole epoch of chunks is one span; of an epoch that is read in part, one byte a chunk says which chunks were. So the cost is that
of the chunks of two epochs at most, however often a source is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pretrain.data.order import ChunkOrder, ChunkOrders
from pretrain.data.packing.best_fit import GROUP_DOCUMENTS, num_pieces
from pretrain.data.packing.packed_order import PackedOrder

AT_ONCE = 2**20
"""Draws, and epochs, that are placed at once."""


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Tokens [start, end) of a source, each read so many times. The first of a span is input alone; the others are predicted."""

    starts: np.ndarray
    """int64 [spans], as are the others."""
    ends: np.ndarray
    times: np.ndarray


class Reads(Protocol):
    """What a range of draws reads of a source."""

    def within(self, first_token: int, end_token: int) -> Spans:
        """Every span that holds one of these tokens, and maybe neighbours."""
        ...


def reads_of(order: ChunkOrder | PackedOrder, first_draw: int, end_draw: int) -> Reads:
    """What the draws [first_draw, end_draw) of a source read."""
    if isinstance(order, PackedOrder):
        return PackedReads(order, first_draw, end_draw)
    return ChunkReads(order, first_draw, end_draw)


def epochs_of(first_draw: int, end_draw: int, per_epoch: int) -> tuple[range, list[range]]:
    """(The epochs that these draws read whole, the draws of those that they read in part: two epochs at most)."""
    first_whole, end_whole = -(-first_draw // per_epoch), end_draw // per_epoch
    if first_whole > end_whole:
        return range(0), [range(first_draw, end_draw)]
    parts = range(first_draw, first_whole * per_epoch), range(end_whole * per_epoch, end_draw)
    return range(first_whole, end_whole), [draws for draws in parts if draws]


class ChunkReads:
    """The chunks of concatenated documents."""

    def __init__(self, order: ChunkOrder, first_draw: int, end_draw: int) -> None:
        self._length, self._chunks = order.seq_length, order.chunks_per_epoch
        whole, in_part = epochs_of(first_draw, end_draw, self._chunks)
        self._whole, self._times = _whole_epochs(order, whole)
        self._in_part = [
            (_first_token(order, draws.start // self._chunks), _chunks_read(order, draws)) for draws in in_part
        ]

    def within(self, first_token: int, end_token: int) -> Spans:
        """See ``Reads``."""
        starts, times, lengths = (
            [self._whole],
            [self._times],
            [np.full(len(self._whole), self._chunks * self._length + 1)],
        )
        for offset, read in self._in_part:
            first = max(0, (first_token - offset - self._length) // self._length)
            end = max(first, min(self._chunks, (end_token - offset) // self._length + 1))
            here = offset + (first + np.flatnonzero(read[first:end])) * self._length
            starts.append(here)
            times.append(np.ones(len(here), np.int64))
            lengths.append(np.full(len(here), self._length + 1))
        begun = np.concatenate(starts)
        return Spans(starts=begun, ends=begun + np.concatenate(lengths), times=np.concatenate(times))


class PackedReads:
    """The rows of packed documents, whose pieces are the spans."""

    def __init__(self, order: PackedOrder, first_draw: int, end_draw: int) -> None:
        self._plan = order.plan
        whole, in_part = epochs_of(first_draw, end_draw, order.chunks_per_epoch)
        self._times = np.full(order.chunks_per_epoch, len(whole), np.int64)
        for draws in in_part:
            for part in _parts(draws):
                rows = ChunkOrders([order]).start_tokens(np.zeros(len(part), np.int64), part)
                self._times[rows] += 1  # of one epoch: each row once
        self._group_tokens, self._group_pieces = _groups(order)

    def within(self, first_token: int, end_token: int) -> Spans:
        """See ``Reads``. Pieces lie by rows, and those of a group of documents together."""
        first = int(np.searchsorted(self._group_tokens, first_token, side="right")) - 1
        end = min(int(np.searchsorted(self._group_tokens, end_token, side="left")), len(self._group_tokens) - 1)
        pieces = slice(int(self._group_pieces[first]), int(self._group_pieces[end]))
        starts = self._plan.starts[pieces].astype(np.int64)
        ends = starts + self._plan.lengths[pieces]
        here = np.flatnonzero((ends > first_token) & (starts < end_token))
        rows = np.searchsorted(self._plan.firsts, pieces.start + here, side="right") - 1
        times = self._times[rows]
        here, times = here[times > 0], times[times > 0]
        return Spans(starts=starts[here], ends=ends[here], times=times)


def _whole_epochs(order: ChunkOrder, epochs: range) -> tuple[np.ndarray, np.ndarray]:
    """(First token of epochs, number of epochs that begin there): int64 [different ones] each."""
    times: dict[int, int] = {}
    for part in _parts(epochs):
        found, count = np.unique(ChunkOrders([order]).offsets(0, part), return_counts=True)
        for token, more in zip(found.tolist(), count.tolist(), strict=True):
            times[token] = times.get(token, 0) + more
    return np.array(list(times), np.int64), np.array(list(times.values()), np.int64)


def _first_token(order: ChunkOrder, epoch: int) -> int:
    return int(ChunkOrders([order]).offsets(0, np.array([epoch], np.int64))[0])


def _chunks_read(order: ChunkOrder, draws: range) -> np.ndarray:
    """Which chunks of an epoch these draws of it are: bool [chunks]."""
    read = np.zeros(order.chunks_per_epoch, dtype=bool)
    offset = _first_token(order, draws.start // order.chunks_per_epoch)
    for part in _parts(draws):
        read[(order.start_tokens(part) - offset) // order.seq_length] = True
    return read


def _groups(order: PackedOrder) -> tuple[np.ndarray, np.ndarray]:
    """First token, and first piece, of each group of documents that is packed by itself, and where the last ends."""
    tokens, pieces = [0], [0]
    for lengths in order.shard.document_lengths(GROUP_DOCUMENTS):
        ends = tokens[-1] + np.cumsum(lengths, dtype=np.int64)
        lengths = lengths[ends <= order.num_tokens].astype(np.int64)
        if not len(lengths):
            break
        tokens.append(tokens[-1] + int(lengths.sum()))
        pieces.append(pieces[-1] + int(num_pieces(lengths, order.seq_length).sum()))
    return np.array(tokens, np.int64), np.array(pieces, np.int64)


def _parts(numbers: range) -> Iterator[np.ndarray]:
    for first in range(numbers.start, numbers.stop, AT_ONCE):
        yield np.arange(first, min(first + AT_ONCE, numbers.stop), dtype=np.int64)
