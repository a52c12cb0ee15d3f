"""Documents inside samples: where they start, and what follows for attention, positions and loss.

A sample is tokens [s + 1]: position p of the chunk is input p for p < s and label p - 1 for p > 0. A document may start at
any position of it; whatever comes before the first start is the tail of a document that began earlier.

Shapes: s sequence, b micro batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tokenizer.shards.shard import Shard

if TYPE_CHECKING:  # places are worked out without it
    import torch


@dataclass(frozen=True, kw_only=True)
class Boundaries:
    """All that a pipeline stage without embedding and loss needs of a micro batch when documents are kept apart."""

    document_starts: "torch.Tensor"
    """The same field as in MicroBatch."""


def starts_in_chunk(shard: Shard, start_token: int, seq_length: int) -> np.ndarray:
    """Positions 1 to s of the chunk [s + 1] at ``start_token`` where a document starts: int64 [documents], ascending.

    Position 0 is left out: it has no position before it to be kept apart from.
    """
    return shard.documents_in(start_token + 1, seq_length) - start_token


def packed_starts(starts: Sequence[np.ndarray], seq_length: int) -> np.ndarray:
    """First input of every document when the rows lie one after the other, and last b * s: int32 [documents + 1].

    Each row begins with a document, its own or the tail of one; a start at position s is a label and no input.
    Args: starts, per row what starts_in_chunk gives.
    """
    per_row = [
        row * seq_length + np.concatenate(([0], positions[positions < seq_length]))
        for row, positions in enumerate(starts)
    ]
    return np.concatenate([*per_row, [len(starts) * seq_length]]).astype(np.int32)


def positions_in_documents(packed: np.ndarray, seq_length: int) -> np.ndarray:
    """Return the distance of each input from the first one of its document in the row: int64 [b, s].

    Args: packed, what packed_starts gives.
    """
    first = np.repeat(packed[:-1].astype(np.int64), np.diff(packed))  # [b * s]
    return (np.arange(packed[-1]) - first).reshape(-1, seq_length)


def predictable(starts: Sequence[np.ndarray], seq_length: int) -> np.ndarray:
    """Return whether each input's document holds its label too: bool [b, s]. The first token of the next document is not predicted.

    Args: starts, per row what starts_in_chunk gives.
    """
    counted = np.ones((len(starts), seq_length), dtype=bool)
    for row, positions in enumerate(starts):
        counted[row, positions - 1] = False
    return counted
