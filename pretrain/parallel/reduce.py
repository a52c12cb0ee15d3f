"""Collectives on plain numbers: sums over replicas, news for every pipeline stage, agreement of all ranks."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pretrain.parallel.world import World


def sum_over_replicas_and_share(values: torch.Tensor, world: World) -> torch.Tensor:
    """Sum what the last pipeline stages hold over the data-parallel replicas, and give it to every stage.

    Args:
        values: 1-D float64 on the world's device; only the last stage's content counts.
    Collective: every rank calls it, in the same order. No device sync.
    """
    if world.is_pipeline_last:
        replicas: Any = parallel_state.get_data_parallel_group()
        dist.all_reduce(values, group=replicas)
    if world.pipeline_model_parallel_size > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        stages: Any = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(values, src=last, group=stages)
    return values


def any_rank(flag: bool, world: World) -> bool:
    """Whether any rank says yes. Collective over all ranks; one device sync."""
    answer = torch.tensor([int(flag)], device=world.device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return bool(answer.item())


def largest(value: float, world: World) -> float:
    """The largest of all ranks' values. Collective over all ranks; one device sync."""
    answer = torch.tensor([value], dtype=torch.float64, device=world.device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return float(answer.item())


def share_text(text: str | None, world: World) -> str | None:
    """Rank 0's text on every rank. Collective over all ranks."""
    box = [text if world.rank == 0 else None]
    dist.broadcast_object_list(box, src=0, device=world.device)
    return box[0]


def barrier() -> None:
    """Wait for every rank. Collective over all ranks."""
    dist.barrier()
