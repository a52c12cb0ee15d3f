"""What AdamW knows of each parameter, in the optimizer's own memory: the fp32 master values and two moments.

The three kinds of optimizer that megatron-core builds here keep them in different places: split among the data-parallel
ranks in flat ranges (use_distributed_optimizer), whole beside bf16 parameters, or whole with fp32 parameters as their own
masters. This file is the one place that knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params

from pretrain.optim.optimizer import inner_optimizers

STATES = ("param", "exp_avg", "exp_avg_sq")
"""Names of the three in a checkpoint: master values, first and second moment. All float32."""


@dataclass(frozen=True, kw_only=True)
class Owned:
    """The optimizer's memory of elements ``start`` to ``end`` of a parameter, in row-major order."""

    parameter: torch.nn.Parameter
    start: int
    end: int
    states: dict[str, torch.Tensor]
    """By the names in STATES: flat float32 views of what the optimizer uses, [end - start]."""


def owned_states(optimizer: MegatronOptimizer) -> list[Owned]:
    """Everything this rank's optimizer keeps; moments are made, as zeros, where AdamW has not made them yet.

    With the distributed optimizer the ranges of the data-parallel ranks together cover every parameter once; without, each
    rank keeps all of each parameter.
    """
    return [owned for part in inner_optimizers(optimizer) for owned in _owned_by(part)]


def adam_step(optimizer: MegatronOptimizer) -> int:
    """Updates that AdamW has made, for its bias correction; the same for all parameters, 0 on a rank without any."""
    steps = {int(holder["step"]) for part in inner_optimizers(optimizer) for holder in _step_holders(part)}
    assert len(steps) <= 1, f"parameters disagree about the number of updates: {sorted(steps)}"
    return steps.pop() if steps else 0


def set_adam_step(optimizer: MegatronOptimizer, step: int) -> None:
    """Go on from ``step`` updates. torch counts them per parameter: a counter that parameters share would run ahead."""
    for part in inner_optimizers(optimizer):
        for holder in _step_holders(part):
            holder["step"] = torch.full_like(holder["step"], step) if torch.is_tensor(holder["step"]) else step


@torch.no_grad()
def publish_masters(optimizer: MegatronOptimizer, model: Sequence[DistributedDataParallel]) -> None:
    """Give the model the values that the masters hold now. Collective over data-parallel ranks."""
    for part in inner_optimizers(optimizer):
        if isinstance(part, DistributedOptimizer | Float16OptimizerWithFloat16Params):
            part._copy_main_params_to_model_params()
    for chunk in model:
        # Alone, a rank has all of them; megatron-core would gather them from itself, which is three copies.
        if chunk.ddp_config.use_distributed_optimizer and chunk.intra_dp_cp_group.size() > 1:
            chunk.start_param_sync(force_sync=True)


def finish_param_sync(model: Sequence[DistributedDataParallel]) -> None:
    """Wait for parameters of the last update that are still on their way. Collective over data-parallel ranks."""
    for chunk in model:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def _owned_by(part: MegatronOptimizer) -> list[Owned]:
    found = []
    for group in part.optimizer.param_groups:
        for main in group["params"]:
            _make_moments(part.optimizer, group, main)
    for parameter, main, start in _masters(part):
        state = part.optimizer.state[main]
        tensors = {"param": main.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        for name, tensor in tensors.items():
            assert tensor.dtype is torch.float32 and tensor.is_contiguous(), f"{name} is {tensor.dtype}"
        states = {name: tensor.view(-1) for name, tensor in tensors.items()}
        found.append(Owned(parameter=parameter, start=start, end=start + main.numel(), states=states))
    return found


def _masters(part: MegatronOptimizer) -> list[tuple[torch.nn.Parameter, torch.Tensor, int]]:
    """(model parameter, its master or the part of it kept here, where that part begins)."""
    if isinstance(part, DistributedOptimizer):
        found = []
        for parameter, (group, order) in part.model_param_group_index_map.items():
            place = part._get_model_param_range_map(parameter)["param"]
            main = part.optimizer.param_groups[group]["params"][order]
            assert main.numel() == place.size, f"a master of {main.numel()} elements for a range of {place.size}"
            found.append((parameter, main, place.start))
        return found
    if isinstance(part, Float16OptimizerWithFloat16Params):
        pairs = [
            pair
            for models, mains in zip(part.float16_groups, part.fp32_from_float16_groups, strict=True)
            for pair in zip(models, mains, strict=True)
        ]
        pairs += [(parameter, parameter) for group in part.fp32_from_fp32_groups for parameter in group]
        return [(parameter, main, 0) for parameter, main in pairs]
    return [(parameter, parameter, 0) for group in part.optimizer.param_groups for parameter in group["params"]]


def _make_moments(adam: torch.optim.Optimizer, group: dict[str, Any], main: torch.Tensor) -> None:
    """What AdamW makes at a parameter's first update."""
    state = adam.state[main]
    if state:
        return
    if isinstance(adam, torch.optim.Adam):  # the fused ones of Apex and Transformer Engine count in the group
        on_device = group.get("fused") or group.get("capturable")
        state["step"] = torch.zeros((), dtype=torch.float32, device=main.device if on_device else "cpu")
    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(main), torch.zeros_like(main)


def _step_holders(part: MegatronOptimizer) -> list[dict[str, Any]]:
    adam = part.optimizer
    if isinstance(adam, torch.optim.Adam):
        return [state for state in adam.state.values() if state]
    return [group for group in adam.param_groups if "step" in group]
