"""The content of a checkpoint on this rank: the boxes of the whole tensors that it writes and that it reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pretrain.checkpoint.disk.boxes import Box, boxes_of_range
from pretrain.model.placement import ParameterPiece, Placement
from pretrain.optim.states import OwnedRange
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class LocalBox:
    """A box of a tensor, with its values in this rank's memory."""

    tensor: str
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    box: Box
    states: dict[str, torch.Tensor]
    """Values by the name of the state in a checkpoint: flat views of what the optimizer uses, in the box's row-major order."""


def boxes_to_write(
    placements: Sequence[Placement], owned: Sequence[OwnedRange], world: World, *, is_distributed: bool
) -> list[LocalBox]:
    """Return the boxes that this rank writes: together the ranks write every element once.

    Without the distributed optimizer every copy of the weights has everything, and each writes an equal part of each parameter.
    """
    found = []
    for placement, kept in _matched(placements, owned):
        start, end = kept.start, kept.end
        if not is_distributed:
            copy, copies = world.dp_cp_rank, world.dp_cp_size
            start, end = end * copy // copies, end * (copy + 1) // copies
        found += _boxes([piece for piece in placement.pieces if not piece.is_copy], placement, kept, start, end)
    return found


def boxes_to_read(placements: Sequence[Placement], owned: Sequence[OwnedRange]) -> list[LocalBox]:
    """Return the boxes of all that this rank's optimizer keeps."""
    return [
        local
        for placement, kept in _matched(placements, owned)
        for local in _boxes(placement.pieces, placement, kept, kept.start, kept.end)
    ]


def files_of(boxes: Sequence[LocalBox], *, num_files: int) -> list[list[LocalBox]]:
    """Return the boxes in their order, in exactly this many files of equal length (to an element): a box is cut where a file
    ends. With fewer elements than files, some have none."""
    total = sum(local.box.num_elements for local in boxes)
    ends = [total * (number + 1) // num_files for number in range(num_files)]
    files: list[list[LocalBox]] = [[] for _ in ends]
    number = place = 0
    for local in boxes:
        start, count = 0, local.box.num_elements
        while start < count:
            while ends[number] <= place + start:
                number += 1
            end = min(count, ends[number] - place)
            files[number] += _cut(local, start, end)
            start = end
        place += count
    return files


def _cut(local: LocalBox, start: int, end: int) -> Iterator[LocalBox]:
    """Yield elements ``start`` to ``end`` of a box."""
    if (start, end) == (0, local.box.num_elements):
        yield local
        return
    for box in boxes_of_range(local.box.size, start, end):
        states = {name: flat[start : start + box.num_elements] for name, flat in local.states.items()}
        yield LocalBox(tensor=local.tensor, shape=local.shape, box=box.moved(local.box.offset), states=states)
        start += box.num_elements


def _matched(placements: Sequence[Placement], owned: Sequence[OwnedRange]) -> Iterator[tuple[Placement, OwnedRange]]:
    """Yield each placement with its range, in the order of the model, which all replicas share."""
    by_parameter = {id(kept.parameter): kept for kept in owned}
    assert len(by_parameter) == len(owned), "the optimizer keeps a parameter twice"
    for placement in placements:
        kept = by_parameter.pop(id(placement.parameter), None)
        if kept is not None:
            yield placement, kept
    assert not by_parameter, "the optimizer keeps parameters that the model does not have"


def _boxes(
    pieces: Sequence[ParameterPiece], placement: Placement, kept: OwnedRange, start: int, end: int
) -> Iterator[LocalBox]:
    """Yield the boxes of elements ``start`` to ``end`` of a parameter that lie in these pieces of it."""
    for piece in pieces:
        low, high = max(start, piece.first_element), min(end, piece.end_element)
        if low >= high:
            continue
        for box in boxes_of_range(piece.size, low - piece.first_element, high - piece.first_element):
            at = low - kept.start
            states = {name: flat[at : at + box.num_elements] for name, flat in kept.states.items()}
            yield LocalBox(tensor=placement.name, shape=placement.shape, box=box.moved(piece.offset), states=states)
            low += box.num_elements
