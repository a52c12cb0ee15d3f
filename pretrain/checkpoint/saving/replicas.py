"""The check that replicas hold equal weights, and the sum of the weights of a checkpoint.

Every parameter has a sum: its bits, read as integers, added up modulo 2**64. It needs no order and no layout, so the parts of
a split parameter add up to the sum of the whole, and a checkpoint can be checked against it later by who has no GPU.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from fanal.errors import FanalError
from fanal.exit_codes import CRASH
from pretrain.checkpoint.disk.weight_sums import BITS, weight_sum
from pretrain.model.placement import Placement
from pretrain.parallel.reduce import any_rank, wrapping_sum
from pretrain.parallel.texts import gather_texts, share_text
from pretrain.parallel.world import World


class ReplicaDriftError(FanalError):
    """Ranks that must hold the same weights hold different ones."""

    exit_code = CRASH


def sums_of(placements: Sequence[Placement]) -> list[int]:
    """Return the sum of each parameter of this rank. On a GPU one device sync for all."""
    if not placements or placements[0].parameter.device.type == "cpu":
        return [weight_sum(placement.parameter) for placement in placements]
    bits = [placement.parameter.detach().view(BITS[placement.parameter.dtype]) for placement in placements]
    return [value % 2**64 for value in torch.stack([part.sum(dtype=torch.int64) for part in bits]).tolist()]


def check_replicas(placements: Sequence[Placement], sums: Sequence[int], world: World) -> None:
    """Compare what must be equal: all parameters among data-parallel and context-parallel ranks, those that are not split among
    tensor-parallel ranks, the two copies of a tied embedding.

    Collective over all ranks. Raises: ReplicaDriftError on every rank, naming the parameters and the ranks.
    """
    drifted: dict[str, str] = {}
    whole = [index for index, placement in enumerate(placements) if not placement.is_split]
    everything = list(range(len(placements)))
    for kind, chosen, group in (
        ("data-parallel", everything, parallel_state.get_data_parallel_group(with_context_parallel=True)),
        ("tensor-parallel", whole, parallel_state.get_tensor_model_parallel_group()),
    ):
        for index in _different([sums[index] for index in chosen], world, group):
            drifted[placements[chosen[index]].name] = kind
    tied = [index for index, placement in enumerate(placements) if _is_tied(placement)]
    if tied and world.pipeline_model_parallel_size > 1:
        group = parallel_state.get_embedding_group()
        for _ in _different([sums[index] for index in tied], world, group):
            drifted[placements[tied[0]].name] = "first and last pipeline"
    if any_rank(bool(drifted), world):
        raise ReplicaDriftError(_what_drifted(placements, sums, drifted, world))


def sums_of_whole(
    names: Sequence[str], placements: Sequence[Placement], sums: Sequence[int], world: World
) -> list[int]:
    """Return the sums of the model's tensors of these names, in their order. Collective over all ranks; one device sync."""
    mine = dict.fromkeys(names, 0)
    if world.copy_rank == 0:
        for placement, value in zip(placements, sums, strict=True):
            if not placement.is_copy:
                mine[placement.name] = value
    return wrapping_sum(list(mine.values()), world)


def _is_tied(placement: Placement) -> bool:
    return bool(getattr(placement.parameter, "shared_embedding", False))


def _different(values: list[int], world: World, group: Any) -> list[int]:
    """Return which of these numbers are not the same on all ranks of a group. Collective over the group; one device sync."""
    if not values or dist.get_world_size(group) == 1:
        return []
    mine = torch.from_numpy(np.array(values, np.uint64).view(np.int64)).to(world.device)
    both = torch.cat([mine, ~mine])  # the smallest number is the complement of the largest complement
    dist.all_reduce(both, op=dist.ReduceOp.MAX, group=group)
    largest, smallest = both[: len(values)], ~both[len(values) :]
    return torch.nonzero(largest != smallest).flatten().tolist()


def _what_drifted(placements: Sequence[Placement], sums: Sequence[int], drifted: dict[str, str], world: World) -> str:
    """Return the message about the drift, the same on every rank. Collective over all ranks."""
    by_name = {placement.name: value for placement, value in zip(placements, sums, strict=True)}
    mine = [[name, kind, f"{by_name[name]:016x}"] for name, kind in drifted.items()]
    text = None
    gathered = gather_texts(json.dumps(mine), world)
    if gathered is not None:
        lines: dict[str, list[str]] = {}
        for rank, found in enumerate(gathered):
            for name, kind, value in json.loads(found):
                lines.setdefault(f"{name} (among {kind} ranks)", []).append(f"rank {rank} has {value}")
        shown = [f"{name}: {', '.join(ranks)}" for name, ranks in sorted(lines.items())]
        text = (
            f"weights that must be equal have drifted apart, in {len(shown)} parameters: {'; '.join(shown[:8])}. No checkpoint "
            "was written; the newest one was written while they were equal. Check the memory of the host that differs from the "
            "others, then resume"
        )
    return share_text(text, world) or ""
