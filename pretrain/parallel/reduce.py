"""Collectives on plain numbers: sums over replicas, news for every pipeline stage, agreement of all ranks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pretrain.parallel.world import World


def sum_over_replicas_and_share(values: torch.Tensor, world: World) -> torch.Tensor:
    """Sum what the last pipeline stages hold over the replicas and the ranks of each sequence, and give it to every stage.

    Args:
        values: float64, contiguous, on the world's device; only the last stage's content counts.
    Collective: every rank calls it, in the same order. No device sync.
    """
    if world.is_pipeline_last:
        replicas: Any = parallel_state.get_data_parallel_group(with_context_parallel=True)
        dist.all_reduce(values, group=replicas)
    if world.pipeline_model_parallel_size > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        stages: Any = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(values, src=last, group=stages)
    return values


def sum_over_ranks(values: torch.Tensor, flags: Sequence[bool], world: World) -> torch.Tensor:
    """Sum what the last pipeline stages hold over the replicas and the ranks of each sequence, and count who says yes to some
    questions, in one collective.

    Args: values: float64, on the world's device; only the last stage's content counts, which its tensor-parallel ranks share.
    Returns: float64, flat: the sums, then for each flag how many ranks say yes; the same on every rank.
    Collective over all ranks. No device sync.
    """
    own = values.flatten() if world.is_pipeline_last and world.tp_rank == 0 else torch.zeros_like(values).flatten()
    asked = torch.tensor([float(flag) for flag in flags], dtype=values.dtype)
    if world.device.type == "cuda":
        asked = asked.pin_memory()  # so that its copy does not wait
    box = torch.cat((own, asked.to(world.device, non_blocking=True)))
    dist.all_reduce(box)
    return box


def wrapping_sum(values: Sequence[int], world: World) -> list[int]:
    """Return sums modulo 2**64 over all ranks, of integers below 2**64. Collective over all ranks; one device sync."""
    # As int64 two's complement: its sums wrap, in gloo and NCCL alike.
    box = torch.from_numpy(np.array(values, np.uint64).view(np.int64)).to(world.device)
    dist.all_reduce(box)
    return box.cpu().numpy().view(np.uint64).tolist()


def any_rank(flag: bool, world: World) -> bool:
    """Return whether any rank says yes. Collective over all ranks; one device sync."""
    return any_rank_each([flag], world)[0]


def any_rank_each(flags: Sequence[bool], world: World) -> list[bool]:
    """Return, for each question, whether any rank says yes. One collective over all ranks and one device sync in total."""
    answers = torch.tensor([int(flag) for flag in flags], dtype=torch.int32, device=world.device)
    dist.all_reduce(answers, op=dist.ReduceOp.MAX)
    return [bool(answer) for answer in answers.tolist()]


def largest_each(values: Sequence[int], world: World) -> list[int]:
    """Return, for each place, the largest of all ranks' integers below 2**63. Collective over all ranks; one device sync."""
    box = torch.tensor(values, dtype=torch.int64, device=world.device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return box.tolist()


def smallest_each(values: Sequence[int], world: World) -> list[int]:
    """Return, for each place, the smallest of all ranks' integers below 2**63. Collective over all ranks; one device sync.
    A world of one rank communicates nothing."""
    if world.size == 1 or not values:
        return list(values)
    box = torch.tensor(values, dtype=torch.int64, device=world.device)
    dist.all_reduce(box, op=dist.ReduceOp.MIN)
    return box.tolist()


def rank_0s(values: Sequence[float], world: World) -> list[float]:
    """Return rank 0's numbers on every rank, to the last bit. Collective over all ranks; one device sync."""
    box = torch.tensor(values, dtype=torch.float64, device=world.device)
    dist.broadcast(box, src=0)
    return box.tolist()
