"""What this rank writes to a checkpoint and what it reads from one: its part of every tensor, as boxes of the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fanal.run_folder import MAX_FILES, MIN_FILE_BYTES
from pretrain.checkpoint.disk.boxes import Box, boxes_of_range
from pretrain.model.placement import Placement
from pretrain.optim.states import Owned
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class Part:
    """A box of a tensor in this rank's memory."""

    tensor: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    box: Box
    states: dict[str, torch.Tensor]
    """By their names in a checkpoint: flat views of what the optimizer uses, in the box's row-major order."""


def parts_to_write(
    placements: Sequence[Placement], owned: Sequence[Owned], world: World, *, is_distributed: bool
) -> list[Part]:
    """This rank's share: together the ranks write every element once.

    Without the distributed optimizer every replica has everything, and each writes an equal part of each parameter.
    """
    found = []
    for placement, kept in _matched(placements, owned):
        start, end = kept.start, kept.end
        if not is_distributed:
            replica, replicas = world.dp_rank, world.data_parallel_size
            start, end = end * replica // replicas, end * (replica + 1) // replicas
        if not placement.is_copy:
            found += _parts(placement, kept, start, end)
    return found


def parts_to_read(placements: Sequence[Placement], owned: Sequence[Owned]) -> list[Part]:
    """All that this rank's optimizer keeps."""
    return [
        part
        for placement, kept in _matched(placements, owned)
        for part in _parts(placement, kept, kept.start, kept.end)
    ]


def files_of(parts: Sequence[Part], *, element_bytes: int) -> list[list[Part]]:
    """The parts in their order, in as many files as it takes to hash them at once and no more; one file if there is no part.

    Args: element_bytes: of all states together.
    """
    limit = max(MIN_FILE_BYTES, sum(part.box.num_elements for part in parts) * element_bytes // MAX_FILES)
    files: list[list[Part]] = [[]]
    held = 0
    for part in parts:
        num_bytes = part.box.num_elements * element_bytes
        if files[-1] and held + num_bytes > limit:
            files.append([])
            held = 0
        files[-1].append(part)
        held += num_bytes
    return files


def _matched(placements: Sequence[Placement], owned: Sequence[Owned]) -> Iterator[tuple[Placement, Owned]]:
    """In the order of the model, which all replicas share."""
    by_parameter = {id(kept.parameter): kept for kept in owned}
    assert len(by_parameter) == len(owned), "the optimizer keeps a parameter twice"
    for placement in placements:
        kept = by_parameter.pop(id(placement.parameter), None)
        if kept is not None:
            yield placement, kept
    assert not by_parameter, "the optimizer keeps parameters that the model does not have"


def _parts(placement: Placement, kept: Owned, start: int, end: int) -> Iterator[Part]:
    for piece in placement.pieces:
        low, high = max(start, piece.first_element), min(end, piece.end_element)
        if low >= high:
            continue
        for box in boxes_of_range(piece.size, low - piece.first_element, high - piece.first_element):
            at = low - kept.start
            states = {name: flat[at : at + box.num_elements] for name, flat in kept.states.items()}
            yield Part(tensor=placement.name, shape=placement.shape, box=box.moved(piece.offset), states=states)
            low += box.num_elements
