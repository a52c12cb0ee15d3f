"""The rows and columns of a tensor that each tensor-parallel rank holds. Pure arithmetic; no torch.

Placement, initial values and whole matrices all follow from ``blocks_of_rank``. A rank holds a plain share, but for two kinds of
tensor. Where there are fewer key/value groups than ranks, neighbours hold copies of one key head and one value head, behind their
own queries. And rows of tokens, where they do not divide, are cut into parts of one height: what the last ranks hold past the end
is in no tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pretrain.config.derive import key_value_holders
from pretrain.model.families.table import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of a whole tensor that a rank holds one behind another."""

    rows: range
    columns: range | None = None
    """Columns of them; None for all, and of a vector."""
    num_holders: int = 1
    """Tensor-parallel ranks, neighbours, that hold the same block."""
    is_copy: bool = False
    """Whether another of its holders answers for it: writes it to checkpoints, and counts it in norms and sums."""


def blocks_of_rank(spec: TensorSpec, *, num_ranks: int, rank: int) -> tuple[Block, ...]:
    """Return the blocks of a tensor that a tensor-parallel rank holds, in the order in which its own tensor has them.

    Those that it holds with others come last. Rows of its own tensor behind them are past the end: zeros that stay zeros.
    """
    if spec.split_dim is None:
        return (Block(rows=range(spec.shape[0]), num_holders=num_ranks, is_copy=rank > 0),)
    if spec.split_dim == 1:
        width = spec.shape[1] // num_ranks
        return (Block(rows=range(spec.shape[0]), columns=range(rank * width, (rank + 1) * width)),)
    if spec.has_token_rows:
        height, end = token_rows_of_a_rank(spec.shape[0], num_ranks), spec.shape[0]
        rows = range(min(rank * height, end), min((rank + 1) * height, end))
        return (Block(rows=rows),) if rows else ()
    if any(part.name in spec.copied_parts and len(part.rows) < num_ranks for part in spec.parts):
        return tuple(_of_a_group(spec, num_ranks, rank))
    section = spec.shape[0] // len(spec.seed_names)
    share = section // num_ranks
    starts = [number * section + rank * share for number in range(len(spec.seed_names))]
    return tuple(Block(rows=range(start, start + share)) for start in starts)


def local_shape(spec: TensorSpec, *, num_ranks: int) -> tuple[int, ...]:
    """Return the shape of a rank's own tensor, the same on every rank."""
    rows, *columns = spec.shape
    if spec.has_token_rows:
        return (token_rows_of_a_rank(rows, num_ranks), *columns)
    blocks = blocks_of_rank(spec, num_ranks=num_ranks, rank=0)
    widths = [columns[0] if blocks[0].columns is None else len(blocks[0].columns)] if columns else []
    return (sum(len(block.rows) for block in blocks), *widths)


def token_rows_of_a_rank(rows: int, num_ranks: int) -> int:
    """Return how many rows of the embedding or the output layer each rank's own tensor has, those past the end included."""
    return -(-rows // num_ranks)


def _of_a_group(spec: TensorSpec, num_ranks: int, rank: int) -> Iterator[Block]:
    """Yield the blocks of a rank that shares a query group with its neighbours: its own queries, then the key and value head."""
    for part in spec.parts:
        holders = key_value_holders(len(part.rows), tensor_model_parallel_size=num_ranks)
        rows, number = part.rows[rank // holders], rank % holders
        if part.name in spec.copied_parts:
            yield Block(rows=rows, num_holders=holders, is_copy=number > 0)
        else:
            share = len(rows) // holders
            yield Block(rows=rows[number * share : (number + 1) * share])
