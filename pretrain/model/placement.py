"""The placement of each parameter of this rank in the whole model: the same names and shapes whatever the layout.

The table of the model's family states how a tensor is split, and in which sections (such as the gate and up projections).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel

from pretrain.model.families.table import EMBEDDING, OUTPUT, TensorSpec
from pretrain.model.gpt import Decoder, unwrap
from pretrain.model.initialize import global_named_parameters
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class ParameterPiece:
    """A block of rows of a local parameter, and its place in the whole tensor."""

    first_element: int
    """Index of its first element in the local parameter, in row-major order."""
    size: tuple[int, ...]
    offset: tuple[int, ...]
    """Offset of its first element in the whole tensor."""

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
    is_split: bool
    """Whether tensor parallelism splits it; if not, every tensor-parallel rank holds a copy that must stay equal."""
    is_copy: bool
    """Whether another rank of the same data-parallel replica writes it to checkpoints."""


def place_parameters(model: Sequence[DistributedDataParallel], world: World) -> list[Placement]:
    """Return the placement of every parameter of this rank, in the order of the model. No collective."""
    return [_place(spec, parameter, world) for chunk in unwrap(list(model)) for spec, parameter in specs_of(chunk)]


def specs_of(chunk: Decoder) -> Iterator[tuple[TensorSpec, torch.nn.Parameter]]:
    """Yield the parameters of a model chunk, each with its tensor. Both copies of a tied embedding have the embedding's."""
    for name, parameter in global_named_parameters(chunk):
        yield chunk.specs[EMBEDDING if name == OUTPUT and OUTPUT not in chunk.specs else name], parameter


def _place(spec: TensorSpec, parameter: torch.nn.Parameter, world: World) -> Placement:
    ranks, rank = world.tensor_model_parallel_size, world.tp_rank
    is_split = spec.split_dim is not None
    size = list(spec.shape)
    if spec.split_dim is not None:
        size[spec.split_dim] //= ranks
    assert tuple(size) == tuple(parameter.shape), (
        f"{spec.name} has shape {tuple(parameter.shape)}, expected {size} by its table"
    )
    assert is_split == bool(getattr(parameter, "tensor_model_parallel", False)), f"{spec.name} is split otherwise"
    parts = len(spec.seed_names)
    size[0] //= parts
    pieces = []
    for part in range(parts):
        offset = [0] * len(size)
        offset[0] = part * (spec.shape[0] // parts)
        if spec.split_dim is not None:
            offset[spec.split_dim] += rank * size[spec.split_dim]
        pieces.append(
            ParameterPiece(first_element=part * torch.Size(size).numel(), size=tuple(size), offset=tuple(offset))
        )
    is_tied_copy = spec.name == EMBEDDING and not world.is_pipeline_first
    return Placement(
        name=spec.name,
        parameter=parameter,
        shape=spec.shape,
        pieces=tuple(pieces),
        is_split=is_split,
        is_copy=is_tied_copy or (not is_split and rank != 0),
    )
