"""States that an optimizer keeps of each parameter, in its own memory: the fp32 master values and those that it declares.

The three kinds of optimizer that megatron-core builds here keep them in different places: split among the data-parallel
ranks in flat ranges (use_distributed_optimizer), whole beside bf16 parameters, or whole with fp32 parameters as their own
masters. This file is the one place that knows. Which states there are: registry.py.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared

from pretrain.model.copies import num_counted_elements
from pretrain.model.families.table import TensorSpec
from pretrain.optim.registry import MASTER, Optimizer

STEP = "step"
"""Key under which torch, Apex and Transformer Engine keep the number of updates: of each parameter, or of each group."""


@dataclass(frozen=True, kw_only=True)
class OwnedRange:
    """Elements ``start`` to ``end`` of a parameter, in row-major order, whose states this rank's optimizer keeps."""

    parameter: torch.nn.Parameter
    start: int
    end: int
    states: dict[str, torch.Tensor]
    """States by their names in a checkpoint (registry.py): flat float32 views of what the optimizer uses, [end - start]."""


@dataclass(frozen=True, kw_only=True)
class Master:
    """The fp32 values of a parameter, or of a part of it, that this rank's optimizer updates."""

    parameter: torch.nn.Parameter
    """The model's parameter; in fp32 it may be the master itself."""
    master: torch.Tensor
    start: int
    """Index of its first element in the parameter, in row-major order."""
    is_split: bool
    """Whether the data-parallel ranks keep parts of it that together are the whole; if not, each keeps all."""


def make_states(
    optimizer: MegatronOptimizer, stated: Optimizer, specs: Mapping[torch.nn.Parameter, TensorSpec] | None = None
) -> None:
    """Put the configured torch optimizer in place, with all of its states at zero: before its first update a checkpoint holds the
    same tensors as after it.

    Args: specs: the tensor of each parameter; needed by an optimizer that keeps of each what it is.
    """
    for inner in inner_optimizers(optimizer):
        torch_optimizer = inner.optimizer = stated.over(inner.optimizer)
        if stated.place is not None:
            stated.place(torch_optimizer, inner, specs or {})
        for parameter, main, _ in masters_of(inner):
            names = stated.states if stated.states_of is None else stated.states_of((specs or {})[parameter])
            kept = torch_optimizer.state[main]
            kept.update({name: torch.zeros_like(main) for name in names})
            assert kept.keys() - {STEP} == set(names), f"{stated.title} keeps {sorted(kept)}"
        counts = bool(_step_holders(inner))
        assert counts == stated.counts_updates or not _mains(torch_optimizer), (
            f"{stated.title} has counters of updates: {counts}"
        )


def take_groups(made: torch.optim.Optimizer, adam: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return an optimizer that was made over a placeholder, over the groups of ``adam``: torch makes none over the views that the
    distributed optimizer's ranges are.
    """
    for group in adam.param_groups:
        for name, value in made.defaults.items():
            group.setdefault(name, value)
    made.param_groups = adam.param_groups
    return made


def owned_states(optimizer: MegatronOptimizer) -> list[OwnedRange]:
    """Return the ranges of everything that this rank's optimizer keeps.

    With the distributed optimizer the ranges of the data-parallel ranks together cover every parameter once; without, each
    rank keeps all of each parameter.
    """
    return [owned for inner in inner_optimizers(optimizer) for owned in _owned_by(inner)]


def masters(optimizer: MegatronOptimizer) -> list[Master]:
    """Return what this rank's optimizer updates; where a gradient is ready, it is the ``grad`` of the master."""
    return [
        Master(parameter=parameter, master=main, start=start, is_split=isinstance(inner, DistributedOptimizer))
        for inner in inner_optimizers(optimizer)
        for parameter, main, start in masters_of(inner)
    ]


def counted_gradients(inner: MegatronOptimizer) -> list[torch.Tensor]:
    """Return the gradients that are ready, flat, each number of the model once over the ranks of the gradient norm: megatron-core's
    get_main_grads_for_grad_norm, which counts copies of rows once for each holder."""
    counts = {main: num_counted_here(inner, parameter, main, start) for parameter, main, start in masters_of(inner)}
    found = [main.grad.view(-1)[: counts[main]] for main in inner.get_parameters() if main.grad is not None]
    return [gradient for gradient in found if len(gradient)]


def num_counted_here(inner: MegatronOptimizer, parameter: torch.nn.Parameter, main: torch.Tensor, start: int) -> int:
    """Return how many elements of a master, from the first on, no other rank of the gradient norm counts; it begins at ``start`` of
    its parameter."""
    group = getattr(inner, "tp_group", None)
    if not param_is_not_shared(parameter) or not param_is_not_tensor_parallel_duplicate(parameter, group):
        return 0
    return min(main.numel(), max(0, num_counted_elements(parameter) - start))


def num_updates(optimizer: MegatronOptimizer) -> int:
    """Return the number of updates that were made, as the optimizer counts them: the same for all parameters; 0 if it does not
    count, or on a rank without any parameter.
    """
    steps = {int(holder[STEP]) for inner in inner_optimizers(optimizer) for holder in _step_holders(inner)}
    assert len(steps) <= 1, f"parameters disagree about the number of updates: {sorted(steps)}"
    return steps.pop() if steps else 0


def set_num_updates(optimizer: MegatronOptimizer, count: int) -> None:
    """Set the number of updates that were made to ``count``."""
    for inner in inner_optimizers(optimizer):
        for holder in _step_holders(inner):
            holder[STEP] = torch.full_like(holder[STEP], count) if torch.is_tensor(holder[STEP]) else count


@torch.no_grad()
def publish_masters(optimizer: MegatronOptimizer, model: Sequence[DistributedDataParallel]) -> None:
    """Give the model the values that the masters hold now. Collective over data-parallel ranks."""
    for inner in inner_optimizers(optimizer):
        if isinstance(inner, DistributedOptimizer | Float16OptimizerWithFloat16Params):
            # The class's own: fused_adamw.py leaves the method out of the update.
            type(inner)._copy_main_params_to_model_params(inner)  # type: ignore[arg-type]
    for chunk in model:
        # Alone, a rank has all of them; megatron-core would gather them from itself, which is three copies.
        if chunk.ddp_config.use_distributed_optimizer and chunk.intra_dp_cp_group.size() > 1:
            chunk.start_param_sync(force_sync=True)


def finish_param_sync(model: Sequence[DistributedDataParallel]) -> None:
    """Wait for parameters of the last update that are still on their way. Collective over data-parallel ranks."""
    for chunk in model:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def inner_optimizers(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """Return the optimizers inside megatron's chain of one."""
    return list(optimizer.chained_optimizers) if isinstance(optimizer, ChainedOptimizer) else [optimizer]


def _mains(torch_optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [main for group in torch_optimizer.param_groups for main in group["params"]]


def _owned_by(inner: MegatronOptimizer) -> list[OwnedRange]:
    found = []
    for parameter, main, start in masters_of(inner):
        kept = {name: tensor for name, tensor in inner.optimizer.state[main].items() if name != STEP}
        tensors = {MASTER: main.detach(), **kept}
        for name, tensor in tensors.items():
            assert tensor.dtype is torch.float32 and tensor.is_contiguous(), f"{name} is {tensor.dtype}"
            assert tensor.numel() == main.numel(), f"{name} has {tensor.numel()} elements, its master {main.numel()}"
        states = {name: tensor.view(-1) for name, tensor in tensors.items()}
        found.append(OwnedRange(parameter=parameter, start=start, end=start + main.numel(), states=states))
    return found


def masters_of(inner: MegatronOptimizer) -> list[tuple[torch.nn.Parameter, torch.Tensor, int]]:
    """Return (model parameter, its master or the part of it kept here, where that part begins)."""
    if isinstance(inner, DistributedOptimizer):
        found = []
        for parameter, (group, order) in inner.model_param_group_index_map.items():
            place = inner._get_model_param_range_map(parameter)["param"]
            main = inner.optimizer.param_groups[group]["params"][order]
            assert main.numel() == place.size, f"a master of {main.numel()} elements for a range of {place.size}"
            found.append((parameter, main, place.start))
        return found
    if isinstance(inner, Float16OptimizerWithFloat16Params):
        pairs = [
            pair
            for models, mains in zip(inner.float16_groups, inner.fp32_from_float16_groups, strict=True)
            for pair in zip(models, mains, strict=True)
        ]
        pairs += [(parameter, parameter) for group in inner.fp32_from_fp32_groups for parameter in group]
        return [(parameter, main, 0) for parameter, main in pairs]
    return [(parameter, parameter, 0) for group in inner.optimizer.param_groups for parameter in group["params"]]


def ranges_of_replicas(inner: MegatronOptimizer, parameter: torch.nn.Parameter) -> list[tuple[int, int]]:
    """Return the elements of a parameter whose states each data-parallel rank keeps, as (first, end), in the order of the ranks.

    With the distributed optimizer they follow one another and are empty where a rank keeps nothing; without, each is the whole.
    No collective: megatron-core cuts every bucket of gradients into equal parts.
    """
    if not isinstance(inner, DistributedOptimizer):
        return [(0, parameter.numel())] * parallel_state.get_data_parallel_world_size(with_context_parallel=True)
    (buffer,) = [one for one in inner.buffers if parameter in one.param_index_map]
    begin, end, number = buffer.param_index_map[parameter]
    bucket, ranks = buffer.buckets[number], buffer.data_parallel_group.size()
    share = bucket.grad_data.numel() // ranks
    cuts = [min(max(bucket.offset + rank * share, begin), end) - begin for rank in range(ranks + 1)]
    assert cuts[0] == 0 and cuts[-1] == end - begin, "a parameter lies in one bucket"
    return list(itertools.pairwise(cuts))


def _step_holders(inner: MegatronOptimizer) -> list[dict[str, Any]]:
    torch_optimizer = inner.optimizer
    return [holder for holder in (*torch_optimizer.state.values(), *torch_optimizer.param_groups) if STEP in holder]
