"""Packed tokens: the rows of a micro batch one after the other, as the attention over documents takes them.

Shapes: s sequence, b micro batch, n heads, d head size; q queries, of the last q positions of a row.
"""

from torch import Tensor


def pack(tensor: Tensor) -> Tensor:
    """Pack [s, b, n, d] -> [b * s, n, d], row after row; a view for one row, else a copy."""
    return tensor.transpose(0, 1).flatten(0, 1)


def unpack(packed: Tensor, like: Tensor) -> Tensor:
    """Unpack [b * s, n, d] -> [s, b, n, d], a view; s and b are those of ``like``."""
    return packed.unflatten(0, (like.shape[1], like.shape[0])).transpose(0, 1)


def query_starts(document_starts: Tensor, *, num_keys: int, num_queries: int) -> Tensor:
    """Return the first query of every document when the queries of all rows are packed, and last b * q; no host sync.

    A document that ends before the queries of its row has none. The last query of every other is that of its last key, to which
    the causal mask of flash attention is aligned.
    Args: document_starts, int32 [documents + 1], of packed keys; num_keys s; num_queries q.
    """
    if num_queries == num_keys:
        return document_starts
    rows = document_starts // num_keys
    in_row = document_starts - rows * num_keys - (num_keys - num_queries)
    return rows * num_queries + in_row.clamp(min=0)
