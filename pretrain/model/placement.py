"""Where each parameter of this rank lies in the whole model: the same names and shapes whatever the layout.

Shapes are Megatron's: linear_qkv holds whole query groups one after the other, linear_fc1 all rows of the gate and then all
rows of the up projection, the embedding is padded to make_vocab_size_divisible_by.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel

from pretrain.model.gpt import unwrap
from pretrain.model.initialize import EMBEDDING, OUTPUT, global_named_parameters
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A block of rows of a local parameter, and its place in the whole tensor."""

    first_element: int
    """Where it begins in the local parameter, in row-major order."""
    size: tuple[int, ...]
    offset: tuple[int, ...]
    """Of its first element, in the whole tensor."""

    @property
    def end_element(self) -> int:
        """Where it ends in the local parameter."""
        return self.first_element + torch.Size(self.size).numel()


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One parameter that this rank holds a part of, or a copy."""

    name: str
    """In the whole model; layers count from 0. Both copies of a tied embedding have the embedding's name."""
    parameter: torch.nn.Parameter
    shape: tuple[int, ...]
    """Of the whole tensor."""
    pieces: tuple[Piece, ...]
    is_split: bool
    """By tensor parallelism; if not, every tensor-parallel rank holds a copy that must stay equal."""
    is_copy: bool
    """Another rank of the same data-parallel replica writes it to checkpoints."""


def place_parameters(model: Sequence[DistributedDataParallel], world: World) -> list[Placement]:
    """The placement of every parameter of this rank, in the order of the model. No collective."""
    return [_place(name, parameter, world) for chunk in unwrap(list(model)) for name, parameter in _named_once(chunk)]


def _named_once(chunk: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    tied = bool(chunk.share_embeddings_and_output_weights)
    for name, parameter in global_named_parameters(chunk):
        yield (EMBEDDING if tied and name == OUTPUT else name), parameter


def _place(name: str, parameter: torch.nn.Parameter, world: World) -> Placement:
    ranks, rank = world.tensor_model_parallel_size, world.tp_rank
    is_split = bool(getattr(parameter, "tensor_model_parallel", False))
    shape = list(parameter.shape)
    dim = int(getattr(parameter, "partition_dim", 0)) if is_split else 0
    if is_split:
        shape[dim] *= ranks
    parts = 2 if name.endswith("linear_fc1.weight") else 1  # gate and up are each split by themselves
    size = list(parameter.shape)
    size[0] //= parts
    pieces = []
    for part in range(parts):
        offset = [0] * len(size)
        offset[0] = part * (shape[0] // parts)
        if is_split:
            offset[dim] += rank * size[dim]
        pieces.append(Piece(first_element=part * torch.Size(size).numel(), size=tuple(size), offset=tuple(offset)))
    is_tied_copy = name == EMBEDDING and not world.is_pipeline_first
    return Placement(
        name=name,
        parameter=parameter,
        shape=tuple(shape),
        pieces=tuple(pieces),
        is_split=is_split,
        is_copy=is_tied_copy or (not is_split and rank != 0),
    )
