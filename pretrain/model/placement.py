"""The placement of each parameter of this rank in the whole model: the same names and shapes whatever the layout.

How a tensor is split, and which ranks hold copies of its rows: families/split.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel

from pretrain.model.families.split import blocks_of_rank, local_shape
from pretrain.model.families.table import EMBEDDING, TensorSpec
from pretrain.model.gpt import Decoder, unwrap
from pretrain.model.initialize import named_specs
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class ParameterPiece:
    """A block of rows of a local parameter, and its place in the whole tensor."""

    first_element: int
    """Index of its first element in the local parameter, in row-major order."""
    size: tuple[int, ...]
    offset: tuple[int, ...]
    """Offset of its first element in the whole tensor."""
    num_holders: int
    """Tensor-parallel ranks that hold it, and must hold it equal."""
    is_copy: bool
    """Whether another rank of the same data-parallel replica answers for it: writes it to checkpoints, counts it in sums."""

    @property
    def end_element(self) -> int:
        """Index after its last element in the local parameter."""
        return self.first_element + torch.Size(self.size).numel()


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One tensor of the model of which this rank holds a share, or a copy."""

    name: str
    """Name in the whole model; layers count from 0. Both copies of a tied embedding have the embedding's name."""
    parameter: torch.nn.Parameter
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    pieces: tuple[ParameterPiece, ...]
    """What it holds of the whole. Rows of an embedding or an output layer past the end of the whole are in none: zeros, always."""

    @property
    def num_answered_for(self) -> int:
        """Elements, from the first on, that this rank answers for. Behind them are copies alone, and what is past the end."""
        first_copy = next((number for number, piece in enumerate(self.pieces) if piece.is_copy), len(self.pieces))
        assert all(piece.is_copy for piece in self.pieces[first_copy:]), f"{self.name}: its copies do not come last"
        return self.pieces[first_copy - 1].end_element if first_copy else 0


def place_parameters(model: Sequence[DistributedDataParallel], world: World) -> list[Placement]:
    """Return the placement of every parameter of this rank, in the order of the model. No collective."""
    return [_place(spec, parameter, world) for chunk in unwrap(list(model)) for spec, parameter in specs_of(chunk)]


def specs_of(chunk: Decoder) -> Iterator[tuple[TensorSpec, torch.nn.Parameter]]:
    """Yield the parameters of a model chunk, each with its tensor. Both copies of a tied embedding have the embedding's."""
    return named_specs(chunk, chunk.specs)


def _place(spec: TensorSpec, parameter: torch.nn.Parameter, world: World) -> Placement:
    ranks = world.tensor_model_parallel_size
    size = local_shape(spec, num_ranks=ranks)
    assert size == tuple(parameter.shape), (
        f"{spec.name} has shape {tuple(parameter.shape)}, expected {size} by its table"
    )
    is_split = spec.split_dim is not None
    assert is_split == bool(getattr(parameter, "tensor_model_parallel", False)), f"{spec.name} is split otherwise"
    is_tied_copy = spec.name == EMBEDDING and not world.is_pipeline_first
    pieces, first_element = [], 0
    for block in blocks_of_rank(spec, num_ranks=ranks, rank=world.tp_rank):
        piece = ParameterPiece(
            first_element=first_element,
            size=(len(block.rows), *size[1:]),
            offset=(block.rows.start, *(0 if block.columns is None else block.columns.start for _ in size[1:])),
            num_holders=block.num_holders,
            is_copy=is_tied_copy or block.is_copy,
        )
        pieces.append(piece)
        first_element = piece.end_element
    return Placement(name=spec.name, parameter=parameter, shape=spec.shape, pieces=tuple(pieces))
