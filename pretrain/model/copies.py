"""Copies of key and value heads on neighbouring tensor-parallel ranks, where there are fewer query groups than ranks.

A rank's fused projection holds its own query heads, and behind them the key head and the value head of their group, as its
neighbours do. It makes the gradient of these rows through its own queries alone, so the holders' gradients are summed before
anything looks at them; from equal gradients every optimizer here makes equal updates. In norms and sums the first holder counts the
rows, no other.

megatron-core 0.16.1 keeps no copies: it cuts the projection's rows into equal parts whatever they mean, gathers what all ranks
projected in every layer, and takes out the group. That moves n + 2 g heads a token, and their gradient, where copies move none.
"""

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pretrain.model.families.split import Block, blocks_of_rank
from pretrain.model.families.table import TensorSpec
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class CopiedEnd:
    """The last elements of a parameter, of which other ranks hold copies."""

    first_element: int
    """Index of the first of them, in row-major order; they go to the end."""
    group: dist.ProcessGroup
    """The ranks that hold them."""
    is_counted: bool
    """Whether this is the rank that counts them."""


def mark_copies(
    parameters: Iterable[tuple[TensorSpec, torch.nn.Parameter]],
    specs: Iterable[TensorSpec],
    world: World,
    *,
    timeout_s: int,
) -> None:
    """Tell each parameter of which other ranks hold a part how it ends, as its attribute ``copied_end``.

    Collective over all ranks if there are any, for the groups of those that share. Args: specs: every tensor of the whole model.
    """
    found = {block.num_holders for spec in specs for block in _copied_blocks(spec, world)[1]}
    if not found:
        return
    (holders,) = found
    group = _group_of_neighbours(holders, world, timeout_s)
    for spec, parameter in parameters:
        first_element, copied = _copied_blocks(spec, world)
        if copied:
            end = CopiedEnd(first_element=first_element, group=group, is_counted=not copied[0].is_copy)
            parameter.copied_end = end  # type: ignore[attr-defined]


def sum_copied_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients of copied rows over the ranks that hold them, in place, in fp32.

    They are ready behind the reduction over replicas, of which, with the distributed optimizer, each has its own range: it is the
    same one on all ranks that share. What lies outside it is sent as well, and read by nobody. Collective over those ranks.
    """
    sending = []
    for parameter, end in copied_ends(parameters):
        rows = parameter.main_grad.view(-1)[end.first_element :]
        sending.append(dist.all_reduce(rows, group=end.group, async_op=True))
    for work in sending:
        work.wait()


def copied_ends(parameters: Iterable[torch.nn.Parameter]) -> Iterator[tuple[Any, CopiedEnd]]:
    """Yield the parameters that end in copies, each with its end."""
    for parameter in parameters:
        end: CopiedEnd | None = getattr(parameter, "copied_end", None)
        if end is not None:
            yield parameter, end


def num_counted_elements(parameter: torch.nn.Parameter) -> int:
    """Return how many elements of a parameter, from the first on, count in a norm: all but copies that another rank counts."""
    end: CopiedEnd | None = getattr(parameter, "copied_end", None)
    return parameter.numel() if end is None or end.is_counted else end.first_element


def _copied_blocks(spec: TensorSpec, world: World) -> tuple[int, list[Block]]:
    """Return the blocks of a split tensor that other ranks hold too, and the first of this rank's elements that is in them."""
    if spec.split_dim is None:
        return 0, []  # a whole copy on every rank: megatron's own business
    blocks = blocks_of_rank(spec, num_ranks=world.tensor_model_parallel_size, rank=world.tp_rank)
    own = sum(len(block.rows) for block in blocks if block.num_holders == 1)
    return own * (spec.shape[1] if spec.is_matrix else 1), [block for block in blocks if block.num_holders > 1]


def _group_of_neighbours(holders: int, world: World, timeout_s: int) -> dist.ProcessGroup:
    """Return the group of this rank and the tensor-parallel neighbours that hold the same. Collective over all ranks."""
    of_layout: Any = parallel_state.get_tensor_model_parallel_group()
    if holders == world.tensor_model_parallel_size:
        return of_layout
    ranks = dist.get_process_group_ranks(of_layout)
    assert ranks == list(range(ranks[0], ranks[0] + len(ranks))), "tensor-parallel ranks are neighbours"
    found = None
    for first in range(0, world.size, holders):
        group: Any = dist.new_group(
            list(range(first, first + holders)), timeout=datetime.timedelta(seconds=timeout_s), group_desc="key/value"
        )
        found = group if first <= world.rank < first + holders else found
    assert found is not None, "every rank shares with neighbours"
    return found
