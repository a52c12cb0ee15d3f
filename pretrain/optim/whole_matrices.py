"""Whole matrices out of the parts that ranks hold, and back: each goes to one rank of its pipeline stage.

The ranks of a stage (tensor times data parallel) go through rounds. In a round each gives its part of up to one matrix to each
other, in one all-to-all, and gets all parts of its own; a second one brings the results back. So every matrix is worked on once,
and on one rank, which has no more than one at a time. With the distributed optimizer a rank gives what it keeps. Without, replicas
hold the same, each gives an equal share of it, and an all-gather among them tells all of the results. What each rank gives follows
from the layout: nothing is asked.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from pretrain.model.families.table import TensorSpec
from pretrain.optim.matrices import Matrix, matrices_of, rounds_of
from pretrain.optim.states import masters_of, ranges_of_replicas

Span = tuple[int, int]
"""First element and end of a part of a local tensor, in row-major order."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Elements of a matrix that this rank keeps: ``start`` to ``end`` of a flat master."""

    matrix: Matrix
    main: torch.Tensor
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class _Exchange:
    """What the ranks of the stage give for one matrix of a round."""

    matrix: Matrix
    counts: tuple[int, ...]
    """Elements that a rank of each replica gives, and gets back; the same for all of its tensor-parallel ranks."""
    given: tuple[Piece, ...]
    """What this rank gives."""
    taken: tuple[tuple[Piece, ...], ...]
    """What this rank keeps, by the replica that gave it: its own with the distributed optimizer, else all."""


class WholeMatrices:
    """The matrices of a stage, and the exchange that makes them whole. Every rank of the stage has one, and uses it together."""

    def __init__(self, inner: MegatronOptimizer, specs: Mapping[torch.nn.Parameter, TensorSpec]) -> None:
        """Args: specs: the tensors by this rank's parameters, in the order of the model. No collective."""
        group = parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
        replicas = parallel_state.get_data_parallel_group(with_context_parallel=True)
        assert isinstance(group, dist.ProcessGroup) and isinstance(replicas, dist.ProcessGroup), "the layout is open"
        self._group, self._replicas = group, replicas
        self._tp = parallel_state.get_tensor_model_parallel_world_size()
        self._dp, self._dp_rank = replicas.size(), replicas.rank()
        self._rank = group.rank()
        here = self._dp_rank * self._tp + parallel_state.get_tensor_model_parallel_rank()
        assert (group.size(), self._rank) == (self._tp * self._dp, here), "tensor-parallel ranks are neighbours"
        self._is_distributed = isinstance(inner, DistributedOptimizer)
        kept = {parameter: (main, start) for parameter, main, start in masters_of(inner)}
        owners = {spec.name: parameter for parameter, spec in specs.items() if spec.is_layer_matrix}
        found = [matrix for spec in specs.values() for matrix in matrices_of(spec, num_ranks=self._tp)]
        self._rounds = [
            [self._exchange(matrix, owners[matrix.tensor], inner, kept) for matrix in together]
            for together in rounds_of(found, num_ranks=group.size())
        ]

    def _exchange(
        self,
        matrix: Matrix,
        parameter: torch.nn.Parameter,
        inner: MegatronOptimizer,
        kept: Mapping[torch.nn.Parameter, tuple[torch.Tensor, int]],
    ) -> _Exchange:
        assert matrix.split_dim is not None or self._tp == 1, f"{matrix.name} has copies that nobody compares"
        columns = parameter.shape[1]
        share = [(rows.start * columns, rows.stop * columns) for rows in matrix.blocks]
        if self._is_distributed:
            cut = [_overlaps(share, low, high) for low, high in ranges_of_replicas(inner, parameter)]
        else:
            cut = _equal_parts(share, self._dp)
        main, start = kept.get(parameter, (None, 0))
        taken: list[tuple[Piece, ...]] = [()] * self._dp
        for replica in [self._dp_rank] if self._is_distributed else range(self._dp):
            assert main is not None or not cut[replica], f"{matrix.name}: this rank keeps none of {cut[replica]}"
            if main is not None:
                taken[replica] = tuple(
                    Piece(matrix=matrix, main=main, start=low - start, end=high - start) for low, high in cut[replica]
                )
                assert all(0 <= piece.start < piece.end <= main.numel() for piece in taken[replica]), matrix.name
        return _Exchange(
            matrix=matrix,
            counts=tuple(sum(high - low for low, high in spans) for spans in cut),
            given=taken[self._dp_rank],
            taken=tuple(taken),
        )

    def apply(
        self,
        value: Callable[[Piece], torch.Tensor],
        work: Callable[[torch.Tensor], torch.Tensor],
        take: Callable[[Piece, torch.Tensor], None],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Work on every matrix. Collective over the ranks of the stage; none where the stage is one rank.

        Args: value: the flat values of a piece, in any dtype; work: from a whole matrix to one of its shape; take: given what came
            out of it for a piece. Matrices travel and are worked on in ``dtype``.
        """
        for together in self._rounds:
            mine = [one.counts[self._dp_rank] for one in together]
            own = together[self._rank] if self._rank < len(together) else None
            own_counts = [] if own is None else [count for count in own.counts for _ in range(self._tp)]
            values = _joined((value(piece).to(dtype) for one in together for piece in one.given), dtype, device)
            got = self._all_to_all(values, given=mine, got=own_counts)
            results = got if own is None else self._cut(own, work(self._whole(own, got)))
            back = self._all_to_all(results, given=own_counts, got=mine)
            for replica, found in self._of_replicas(together, back):
                pieces = [piece for one in together for piece in one.taken[replica]]
                for piece, update in zip(pieces, found.split([p.end - p.start for p in pieces]), strict=True):
                    take(piece, update)

    def _whole(self, own: _Exchange, got: torch.Tensor) -> torch.Tensor:
        """Return the whole matrix from what all ranks gave, in their order."""
        parts = got.split([count for count in own.counts for _ in range(self._tp)])
        shares = [torch.cat(parts[rank :: self._tp]) if self._dp > 1 else parts[rank] for rank in range(self._tp)]
        shape, split_dim = list(own.matrix.shape), own.matrix.split_dim or 0
        shape[split_dim] //= self._tp // own.matrix.num_holders
        tiles = [share.view(shape) for share in shares[:: own.matrix.num_holders]]
        return tiles[0] if len(tiles) == 1 else torch.cat(tiles, dim=split_dim)

    def _cut(self, own: _Exchange, whole: torch.Tensor) -> torch.Tensor:
        """Return what each rank gave of a whole matrix, in the order of the ranks."""
        holders = own.matrix.num_holders
        tiles = [tile.reshape(-1) for tile in whole.chunk(self._tp // holders, dim=own.matrix.split_dim or 0)]
        shares = [tile for tile in tiles for _ in range(holders)]
        if self._group.size() == 1:
            return shares[0]
        parts = [share.split(list(own.counts)) for share in shares]
        return torch.cat([parts[rank][replica] for replica in range(self._dp) for rank in range(self._tp)])

    def _of_replicas(self, together: Sequence[_Exchange], back: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Return the results that this rank takes, by the replica that gave: what came back, or without the distributed optimizer
        what came back to all replicas."""
        if self._is_distributed or self._dp == 1:
            return [(self._dp_rank, back)]
        counts = [sum(one.counts[replica] for one in together) for replica in range(self._dp)]
        padded = back.new_zeros(max(counts))
        padded[: len(back)] = back
        found = back.new_empty(self._dp * len(padded))
        dist.all_gather_into_tensor(found, padded, group=self._replicas)
        return [
            (replica, part[:count])
            for replica, (part, count) in enumerate(zip(found.chunk(self._dp), counts, strict=True))
        ]

    def _all_to_all(self, values: torch.Tensor, *, given: Sequence[int], got: Sequence[int]) -> torch.Tensor:
        """Give ``given`` elements to each rank, in their order, and get ``got`` from each; a rank beyond their ends has none."""
        if self._group.size() == 1:
            return values
        none = [0] * self._group.size()
        counts = [[*numbers, *none[len(numbers) :]] for numbers in (got, given)]
        found = values.new_empty(sum(counts[0]))
        dist.all_to_all_single(found, values, *counts, group=self._group)
        return found


def _overlaps(spans: Sequence[Span], low: int, high: int) -> list[Span]:
    """Return what of these elements lies from ``low`` to ``high``."""
    found = [(max(low, start), min(high, end)) for start, end in spans]
    return [(start, end) for start, end in found if start < end]


def _equal_parts(spans: Sequence[Span], parts: int) -> list[list[Span]]:
    """Return these elements in consecutive parts of equal length, to an element."""
    total = sum(end - start for start, end in spans)
    ends = list(itertools.accumulate(end - start for start, end in spans))
    found = []
    for part in range(parts):
        low, high = total * part // parts, total * (part + 1) // parts
        shifted = [
            (max(low, last - end + start), min(high, last), end - last)
            for (start, end), last in zip(spans, ends, strict=True)
        ]
        found.append([(first + shift, last + shift) for first, last, shift in shifted if first < last])
    return found


def _joined(tensors: Iterable[torch.Tensor], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    found = list(tensors)
    return torch.cat(found) if found else torch.empty(0, dtype=dtype, device=device)
