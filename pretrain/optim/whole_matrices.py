"""Whole matrices out of the ranges that ranks keep, and back: each goes to one rank of its pipeline stage.

The ranks of a stage (tensor times data parallel) go through rounds. In a round each gives its pieces of up to one matrix to each
other, in one all-to-all, and gets all pieces of its own; a second one brings the results back. So every matrix is worked on once,
and on one rank, which has no more than one at a time. What each rank gives follows from the layout: nothing is asked.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from pretrain.model.families.table import TensorSpec
from pretrain.optim.matrices import Matrix, matrices_of, rounds_of
from pretrain.optim.states import masters, ranges_of_replicas


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Elements of a matrix that this rank keeps: ``start`` to ``end`` of a flat master."""

    main: torch.Tensor
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class _Exchange:
    """What this rank gives and gets for one matrix of a round."""

    matrix: Matrix
    given: tuple[Piece, ...]
    """Of this rank, to the matrix's; without the distributed optimizer one replica gives for all."""
    returned: tuple[Piece, ...]
    """Elements that this rank keeps: results come for these."""
    num_given: tuple[int, ...]
    """Elements that each rank of the stage gives."""
    num_returned: tuple[int, ...]


class WholeMatrices:
    """The matrices of a stage, and the exchange that makes them whole. Every rank of the stage has one, and uses it together."""

    def __init__(self, inner: MegatronOptimizer, specs: Mapping[torch.nn.Parameter, TensorSpec]) -> None:
        """Args: specs: the tensors by this rank's parameters, in the order of the model. No collective."""
        group = parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
        assert isinstance(group, dist.ProcessGroup), "the layout is open"
        self._group = group
        self._tp = parallel_state.get_tensor_model_parallel_world_size()
        self._dp = parallel_state.get_data_parallel_world_size(with_context_parallel=True)
        self._rank = self._group.rank()
        here = parallel_state.get_data_parallel_rank(with_context_parallel=True) * self._tp
        here += parallel_state.get_tensor_model_parallel_rank()
        assert (self._group.size(), self._rank) == (self._tp * self._dp, here), "tensor-parallel ranks are neighbours"
        self._is_distributed = isinstance(inner, DistributedOptimizer)
        kept = {parameter: (main, start) for parameter, main, start in masters(inner)}
        owners = {spec.name: parameter for parameter, spec in specs.items() if spec.is_layer_matrix}
        found = [matrix for spec in specs.values() for matrix in matrices_of(spec, num_ranks=self._tp)]
        self._rounds = [
            [
                self._exchange(matrix, owner, owners[matrix.tensor], inner, kept.get(owners[matrix.tensor]))
                for owner, matrix in enumerate(together)
            ]
            for together in rounds_of(found, num_ranks=self._group.size())
        ]

    def _exchange(
        self,
        matrix: Matrix,
        owner: int,
        parameter: torch.nn.Parameter,
        inner: MegatronOptimizer,
        kept: tuple[torch.Tensor, int] | None,
    ) -> _Exchange:
        assert matrix.split_dim is not None or self._tp == 1, f"{matrix.name} has copies that nobody compares"
        ranges = ranges_of_replicas(inner, parameter)
        columns = parameter.shape[1]
        cut = [_overlaps(matrix, columns, low, high) for low, high in ranges]
        counts = [sum(high - low for low, high in overlaps) for overlaps in cut]
        pieces: tuple[Piece, ...] = ()
        if kept is not None:
            main, start = kept
            low, high = ranges[self._rank // self._tp]
            assert (start, main.numel()) == (low, high - low), f"{matrix.name}: {start} and {main.numel()} of {ranges}"
            pieces = tuple(Piece(main=main, start=a - start, end=b - start) for a, b in cut[self._rank // self._tp])
        gives = [self._is_distributed or replica == owner // self._tp for replica in range(self._dp)]
        return _Exchange(
            matrix=matrix,
            given=pieces if gives[self._rank // self._tp] else (),
            returned=pieces,
            num_given=tuple(
                count * gives_it for count, gives_it in zip(counts, gives, strict=True) for _ in range(self._tp)
            ),
            num_returned=tuple(count for count in counts for _ in range(self._tp)),
        )

    def apply(
        self,
        value: Callable[[Piece], torch.Tensor],
        work: Callable[[torch.Tensor], torch.Tensor],
        take: Callable[[Matrix, Piece, torch.Tensor], None],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Work on every matrix. Collective over the ranks of the stage; two all-to-all a round, none where the stage is one rank.

        Args: value: the flat values of a piece, in any dtype; work: from a whole matrix to one of its shape; take: given what came
            out of it for a piece. Matrices travel and are worked on in ``dtype``.
        """
        for together in self._rounds:
            gifts = [[value(piece).to(dtype) for piece in one.given] for one in together]
            own = together[self._rank] if self._rank < len(together) else None
            got = self._all_to_all(
                _flat(itertools.chain(*gifts), dtype, device),
                given=[one.num_given[self._rank] for one in together],
                got=() if own is None else own.num_given,
            )
            results = got
            if own is not None:
                results = self._cut(own, work(self._whole(own, got)))
            back = self._all_to_all(
                results,
                given=() if own is None else own.num_returned,
                got=[one.num_returned[self._rank] for one in together],
            )
            pieces = [(one.matrix, piece) for one in together for piece in one.returned]
            for (matrix, piece), values in zip(
                pieces, back.split([piece.end - piece.start for _, piece in pieces]), strict=True
            ):
                take(matrix, piece, values)

    def _whole(self, own: _Exchange, got: torch.Tensor) -> torch.Tensor:
        """Return the whole matrix from what all ranks gave, in their order."""
        parts = got.split(list(own.num_given))
        shares = [torch.cat(parts[rank :: self._tp]) if self._dp > 1 else parts[rank] for rank in range(self._tp)]
        shape = list(own.matrix.shape)
        shape[own.matrix.split_dim or 0] //= self._tp
        tiles = [share.view(shape) for share in shares]
        return tiles[0] if self._tp == 1 else torch.cat(tiles, dim=own.matrix.split_dim or 0)

    def _cut(self, own: _Exchange, whole: torch.Tensor) -> torch.Tensor:
        """Return what each rank keeps of a whole matrix, in the order of the ranks."""
        shares = [share.reshape(-1) for share in whole.chunk(self._tp, dim=own.matrix.split_dim or 0)]
        if self._group.size() == 1:
            return shares[0]
        if not self._is_distributed:
            return torch.cat(shares * self._dp)
        parts = [share.split(list(own.num_returned[:: self._tp])) for share in shares]
        return torch.cat([parts[rank][replica] for replica in range(self._dp) for rank in range(self._tp)])

    def _all_to_all(self, values: torch.Tensor, *, given: Sequence[int], got: Sequence[int]) -> torch.Tensor:
        """Give ``given`` elements to each rank, in their order, and get ``got`` from each; a rank beyond their ends has none."""
        if self._group.size() == 1:
            return values
        none = [0] * self._group.size()
        counts = [[*numbers, *none[len(numbers) :]] for numbers in (got, given)]
        found = values.new_empty(sum(counts[0]))
        dist.all_to_all_single(found, values, *counts, group=self._group)
        return found


def _overlaps(matrix: Matrix, columns: int, low: int, high: int) -> list[tuple[int, int]]:
    """Return the elements of a local tensor that belong to a matrix and lie from ``low`` to ``high``."""
    found = [(max(low, rows.start * columns), min(high, rows.stop * columns)) for rows in matrix.blocks]
    return [(start, end) for start, end in found if start < end]


def _flat(tensors: "itertools.chain[torch.Tensor]", dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    found = list(tensors)
    return torch.cat(found) if found else torch.empty(0, dtype=dtype, device=device)
