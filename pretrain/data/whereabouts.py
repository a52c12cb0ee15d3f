"""Tokens of a source -> the samples that read them: the order of data backwards, by arithmetic alone.

Letters: n samples, e epochs.
"""

import numpy as np

from pretrain.data.order import ChunkOrder
from pretrain.data.packing.packed_order import PackedOrder
from pretrain.data.packing.plan import Plan
from pretrain.data.read import TrainData


def samples_over(data: TrainData, source: int, *, first_token: int, end_token: int, end_sample: int) -> np.ndarray:
    """Return the numbers of the samples before ``end_sample`` that hold one of a source's tokens, rising: int64 [n].

    A sample holds seq_length + 1 tokens, so its first one, which is an input alone, and its last one, a label alone, count.

    Args: source: its number in the run; first_token, end_token: counted from the shard's first token.
    Cost: a few sums of floors for all samples at once; of packed rows, a pass over the source's plan.
    """
    order = data.sources.train[source].order
    num_draws = int(data.mixture.drawn(end_sample)[source])
    epochs = np.arange(-(-num_draws // order.chunks_per_epoch))
    if isinstance(order, PackedOrder):
        rows = _rows_over(order.plan, first_token, end_token)
        of_epoch, chunks = np.repeat(epochs, len(rows)), np.tile(rows, len(epochs))
    else:
        of_epoch, chunks = _chunks_over(order, data.orders.offsets(source, epochs), first_token, end_token)
    draws = data.orders.draws_of(source, of_epoch, chunks)
    return np.sort(data.mixture.samples_of(source, draws[draws < num_draws]))


def _chunks_over(
    order: ChunkOrder, offsets: np.ndarray, first_token: int, end_token: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (epoch, chunk) of each chunk that holds one of these tokens: two int64 [n].

    Args: offsets: the token from which each epoch lays its chunks, int64 [e].
    """
    # Chunk c is tokens offset + c * stride to offset + (c + 1) * stride, both included.
    first = np.maximum(-(-(first_token - offsets) // order.stride) - 1, 0)
    last = np.minimum((end_token - 1 - offsets) // order.stride, order.chunks_per_epoch - 1)
    counts = np.maximum(last - first + 1, 0)
    epochs = np.repeat(np.arange(len(offsets)), counts)
    nth = np.arange(len(epochs)) - np.repeat(np.cumsum(counts) - counts, counts)
    return epochs, first[epochs] + nth


def _rows_over(plan: Plan, first_token: int, end_token: int) -> np.ndarray:
    """Return the rows that hold a piece with one of these tokens, each once: int64 [rows]."""
    pieces = np.flatnonzero((plan.starts < end_token) & (plan.starts + plan.lengths > first_token))
    return np.unique(np.searchsorted(plan.firsts, pieces, side="right") - 1)
