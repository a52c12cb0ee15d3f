"""Matrices that Muon orthogonalizes: which ones a model has, which rank does each, and what that costs. Pure arithmetic; no torch.

They are the parts of the tensors between the embedding and the output layer, as the family's table states them: the queries of all
heads are a matrix, so are the keys, the values, the gate and what it multiplies, although the trainer keeps them in two tensors.
Liu et al. (2025, arXiv:2502.16982) train with these; as one matrix the three of attention would share one set of singular values.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pretrain.config.derive import data_parallel_size
from pretrain.config.schema import RunConfig
from pretrain.config.stages import rank_sizes
from pretrain.model.families.split import blocks_of_rank
from pretrain.model.families.table import Part, TensorSpec, part_name
from pretrain.model.families.tensors import table_of

FEWER = {"bf16": 2, "fp32": 4}
"""Bytes of a number on its way to the rank that orthogonalizes it, on a GPU; on a CPU they are four."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A matrix, and where a tensor-parallel rank has its share."""

    name: str
    tensor: str
    """Name of the tensor that holds it."""
    shape: tuple[int, int]
    """Rows, which give outputs, and columns, which take inputs, of the whole."""
    split_dim: int | None
    """Dimension along which the shares of the tensor-parallel ranks follow one another; None where each has all of it."""
    blocks: tuple[range, ...]
    """Rows of the local tensor that are the share, in its order; the same on every tensor-parallel rank."""
    num_holders: int = 1
    """Neighbouring ranks that hold the same share: of keys and of values, where there are fewer groups than ranks."""

    @property
    def num_elements(self) -> int:
        """Number of elements of the whole."""
        return self.shape[0] * self.shape[1]

    def flops(self, num_steps: int) -> int:
        """Return the operations of orthogonalizing it: three products in each iteration of Newton-Schulz."""
        short, long = sorted(self.shape)
        return num_steps * (4 * short * short * long + 2 * short**3)


def matrices_of(spec: TensorSpec, *, num_ranks: int) -> list[Matrix]:
    """Return the matrices in a tensor; none of the embedding, the output layer, norms and biases.

    Args: num_ranks: tensor-parallel ranks.
    """
    if not spec.is_layer_matrix:
        return []
    found = []
    for part in spec.parts:
        blocks, num_holders = _local_rows(spec, part, num_ranks)
        matrix = Matrix(
            name=part_name(spec.name, part),
            tensor=spec.name,
            shape=(sum(map(len, part.rows)), spec.shape[1]),
            split_dim=spec.split_dim,
            blocks=blocks,
            num_holders=num_holders,
        )
        found.append(matrix)
    return found


def _local_rows(spec: TensorSpec, part: Part, num_ranks: int) -> tuple[tuple[range, ...], int]:
    """Return the rows of a rank's tensor that belong to a part, and how many ranks hold the same ones."""
    if spec.split_dim != 0 or num_ranks == 1:
        return part.rows, 1
    found: list[list[range]] = [[] for _ in range(num_ranks)]
    order: list[int] = []
    holders = set()
    for rank in range(num_ranks):
        first = 0
        for block in blocks_of_rank(spec, num_ranks=num_ranks, rank=rank):
            for rows in part.rows:
                low, high = max(rows.start, block.rows.start), min(rows.stop, block.rows.stop)
                if low < high:
                    found[rank].append(range(low - block.rows.start + first, high - block.rows.start + first))
                    holders.add(block.num_holders)
                    order += () if block.is_copy else range(low, high)
            first += len(block.rows)
    assert order == [row for rows in part.rows for row in rows], f"the ranks' rows of {spec.name} are not in its order"
    assert all(blocks == found[0] for blocks in found), f"the ranks have different shares of {spec.name}"
    (num_holders,) = holders
    return tuple(found[0]), num_holders


def rounds_of(matrices: Iterable[Matrix], *, num_ranks: int) -> list[list[Matrix]]:
    """Return which matrices are orthogonalized together: rank i of ``num_ranks`` does the i-th of each round, and no other.

    The matrices of a round cost about the same, since all ranks wait for the longest, and no rank holds two whole matrices.
    """
    ordered = sorted(matrices, key=lambda matrix: (-matrix.flops(1), matrix.name))
    return [ordered[first : first + num_ranks] for first in range(0, len(ordered), num_ranks)]


def scale_of(shape: Sequence[int], kind: str) -> float:
    """Return what an orthogonalized matrix is multiplied with, besides the learning rate.

    ``rms``: the root mean square of an update is 0.2, about that of AdamW (Liu et al., 2025, arXiv:2502.16982). ``spectral``: the
    update changes outputs by as much whatever the shape (Jordan et al., Muon, 2024).
    """
    rows, columns = shape
    return 0.2 * max(rows, columns) ** 0.5 if kind == "rms" else max(1.0, rows / columns) ** 0.5


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What Muon's orthogonalization costs a step of one pipeline stage, besides the update that every optimizer makes."""

    num_matrices: int
    num_rounds: int
    """Rounds, each of two all-to-all among the ranks of the stage, and without the distributed optimizer an all-gather among
    replicas; a stage of one rank sends nothing."""
    flops: int
    """Operations of all ranks together: each matrix is orthogonalized once."""
    flops_of_rank_0: int
    """Operations of the stage's first rank, which has the most expensive matrix of every round, or one as expensive."""
    moved_bytes: int
    """Bytes that all ranks together give to the all-to-all, to themselves included: every number goes and comes back, once for each
    rank that holds it."""
    gathered_bytes: int
    """Bytes that each rank has after the all-gather of all rounds, up to an element a matrix and rank; 0 with the distributed
    optimizer."""


def cost(run: RunConfig, *, num_ranks: int) -> Cost:
    """Return the cost of a step for the ranks of the pipeline stage that has most layers."""
    parallel, optim = run.parallel, run.optim
    copies = data_parallel_size(parallel, num_ranks=num_ranks) * parallel.context_parallel_size
    ranks = copies * parallel.tensor_model_parallel_size
    matrices = [
        matrix
        for spec in _tensors_of_a_stage(run)
        for matrix in matrices_of(spec, num_ranks=parallel.tensor_model_parallel_size)
    ]
    rounds = rounds_of(matrices, num_ranks=ranks)
    itemsize = 4 if parallel.device == "cpu" else FEWER[run.train.precision]
    bytes_of_all = itemsize * sum(matrix.num_elements * matrix.num_holders for matrix in matrices)
    return Cost(
        num_matrices=len(matrices),
        num_rounds=len(rounds),
        flops=sum(matrix.flops(optim.muon_num_ns_steps) for matrix in matrices),
        flops_of_rank_0=sum(matrices[0].flops(optim.muon_num_ns_steps) for matrices in rounds),
        moved_bytes=2 * bytes_of_all if ranks > 1 else 0,
        gathered_bytes=0
        if parallel.use_distributed_optimizer or copies == 1
        else bytes_of_all // parallel.tensor_model_parallel_size,
    )


def _tensors_of_a_stage(run: RunConfig) -> Iterator[TensorSpec]:
    for _ in range(max(rank_sizes(run.model, run.parallel))):
        yield from table_of(run.model).layer
