"""The check that replicas hold equal weights, and the sum of the weights of a checkpoint.

Every piece of a parameter has a sum: its bits, read as integers, added up modulo 2**64. It needs no order and no layout, so the
pieces of a tensor add up to the sum of the whole, and a checkpoint can be checked against it later by who has no GPU.
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
from pretrain.model.placement import ParameterPiece, Placement
from pretrain.parallel.reduce import any_rank, wrapping_sum
from pretrain.parallel.texts import gather_texts, share_text
from pretrain.parallel.world import World


class ReplicaDriftError(FanalError):
    """Ranks that must hold the same weights hold different ones."""

    exit_code = CRASH


def sums_of(placements: Sequence[Placement]) -> list[list[int]]:
    """Return the sums of the pieces of each parameter of this rank. On a GPU one device sync for all."""
    pieces = [_values(placement, piece) for placement in placements for piece in placement.pieces]
    if not pieces or pieces[0].device.type == "cpu":
        sums = iter([weight_sum(values) for values in pieces])
    else:
        bits = torch.stack([values.view(BITS[values.dtype]).sum(dtype=torch.int64) for values in pieces])
        sums = iter([value % 2**64 for value in bits.tolist()])
    return [[next(sums) for _ in placement.pieces] for placement in placements]


def check_replicas(placements: Sequence[Placement], sums: Sequence[Sequence[int]], world: World) -> None:
    """Compare what must be equal: all parameters among data- and context-parallel ranks, the pieces that several
    tensor-parallel ranks hold among those, the two copies of a tied embedding.

    Collective over all ranks. Raises: ReplicaDriftError on every rank, naming the parameters and the ranks.
    """
    drifted: dict[str, tuple[str, int]] = {}
    totals = [sum(of_pieces) % 2**64 for of_pieces in sums]
    copies = "data-parallel" if world.context_parallel_size == 1 else "data- and context-parallel"
    for index in _different(totals, parallel_state.get_data_parallel_group(with_context_parallel=True), world):
        drifted[placements[index].name] = (copies, totals[index])
    for index, piece in _different_copies(placements, sums, world):
        drifted[placements[index].name] = ("tensor-parallel", sums[index][piece])
    tied = [index for index, placement in enumerate(placements) if _is_tied(placement)]
    if tied and world.pipeline_model_parallel_size > 1:
        for _ in _different([totals[index] for index in tied], parallel_state.get_embedding_group(), world):
            drifted[placements[tied[0]].name] = ("first and last pipeline", totals[tied[0]])
    if any_rank(bool(drifted), world):
        raise ReplicaDriftError(_what_drifted(drifted, world))


def sums_of_whole(
    names: Sequence[str], placements: Sequence[Placement], sums: Sequence[Sequence[int]], world: World
) -> list[int]:
    """Return the sums of the model's tensors of these names, in their order. Collective over all ranks; one device sync."""
    mine = dict.fromkeys(names, 0)
    if world.dp_cp_rank == 0:
        for placement, of_pieces in zip(placements, sums, strict=True):
            for piece, value in zip(placement.pieces, of_pieces, strict=True):
                if not piece.is_copy:
                    mine[placement.name] = (mine[placement.name] + value) % 2**64
    return wrapping_sum(list(mine.values()), world)


def _values(placement: Placement, piece: ParameterPiece) -> torch.Tensor:
    """Return the values of a piece of a parameter, flat."""
    return placement.parameter.detach().view(-1)[piece.first_element : piece.end_element]


def _different_copies(
    placements: Sequence[Placement], sums: Sequence[Sequence[int]], world: World
) -> list[tuple[int, int]]:
    """Return which pieces, as (placement, piece), are not the same on all tensor-parallel ranks that hold them.

    Collective over the tensor-parallel ranks: each has a place for every block that several of them hold, and fills in its own.
    """
    ranks = world.tensor_model_parallel_size
    shared = [
        (index, number, piece)
        for index, placement in enumerate(placements)
        for number, piece in enumerate(placement.pieces)
        if piece.num_holders > 1
    ]
    places, values, end = [], [], 0
    for index, number, piece in shared:
        places.append(end + world.tp_rank // piece.num_holders)
        values.append(sums[index][number])
        end += ranks // piece.num_holders
    group = parallel_state.get_tensor_model_parallel_group()
    different = set(_different(values, group, world, places=places, num_places=end))
    return [shared[number][:2] for number in sorted(different)]


def _is_tied(placement: Placement) -> bool:
    return bool(getattr(placement.parameter, "shared_embedding", False))


def _different(
    values: list[int], group: Any, world: World, *, places: list[int] | None = None, num_places: int | None = None
) -> list[int]:
    """Return which of these numbers are not the same on all ranks of a group that have one for the place.

    Without places each has all of them, in one order. Collective over the group; one device sync."""
    if not values or dist.get_world_size(group) == 1:
        return []
    where = torch.tensor(range(len(values)) if places is None else places, device=world.device)
    mine = torch.from_numpy(np.array(values, np.uint64).view(np.int64)).to(world.device)
    # The smallest number is the complement of the largest complement. What no rank fills in is below both.
    both = torch.full((2, len(values) if num_places is None else num_places), torch.iinfo(torch.int64).min)
    both = both.to(world.device)
    both[:, where] = torch.stack([mine, ~mine])
    dist.all_reduce(both, op=dist.ReduceOp.MAX, group=group)
    largest, smallest = both[0, where], ~both[1, where]
    return torch.nonzero(largest != smallest).flatten().tolist()


def _what_drifted(drifted: dict[str, tuple[str, int]], world: World) -> str:
    """Return the message about the drift, the same on every rank. Collective over all ranks."""
    mine = [[name, kind, f"{value:016x}"] for name, (kind, value) in drifted.items()]
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
