"""Which positions of a sequence a context-parallel rank has: two chunks of it, so that all ranks have the same causal work.

A sequence of s positions is cut into 2 c chunks for c ranks. Rank r has chunk r and, from the other end, chunk 2 c - 1 - r: a query
of the last chunk sees 2 c times the keys that one of the first does, and every such pair sees as many. Megatron divides so too.
"""

from collections.abc import Sequence

import torch


def chunks_of(rank: int, num_ranks: int) -> tuple[int, int]:
    """Return the numbers of a rank's two chunks, ascending."""
    return rank, 2 * num_ranks - 1 - rank


def part_of(whole: torch.Tensor, rank: int, num_ranks: int, *, dim: int) -> torch.Tensor:
    """Return a rank's two chunks of a tensor, one behind the other: s / c of the s positions of a dimension. One rank has all."""
    if num_ranks == 1:
        return whole
    chunks = whole.chunk(2 * num_ranks, dim=dim)
    return torch.cat([chunks[number] for number in chunks_of(rank, num_ranks)], dim=dim)


def in_order(of_ranks: torch.Tensor) -> torch.Tensor:
    """Return all positions in their order, from the parts of all ranks. [c, s / c, ...] -> [s, ...]"""
    halves = of_ranks.unflatten(1, (2, -1))  # [c, 2, s / 2c, ...]
    return torch.cat([*halves[:, 0], *reversed(halves[:, 1])])


def by_rank(tensors: Sequence[torch.Tensor], num_ranks: int) -> torch.Tensor:
    """Return the parts of all ranks, from all positions of k tensors, in one copy. k times [s, ...] -> [c, k, s / c, ...]"""
    chunks = [tensor.chunk(2 * num_ranks) for tensor in tensors]
    parts = [chunk[number] for rank in range(num_ranks) for chunk in chunks for number in chunks_of(rank, num_ranks)]
    return torch.cat(parts).view(num_ranks, len(tensors), -1, *tensors[0].shape[1:])
