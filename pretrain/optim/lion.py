# pyright: reportPrivateImportUsage=false
"""Lion: the sign of an average of gradients, with a rate and a weight decay of its own size.

Source: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023 (arXiv:2302.06675). Every number moves by the learning
rate, so it is 3 to 10 times smaller than AdamW's, and the weight decay as much larger. Masters and states take 8 bytes a
parameter, AdamW's 12; an update needs 4 more while it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pretrain.config.schema import OptimConfig
from pretrain.optim.registry import Optimizer

if TYPE_CHECKING:
    import torch


def _settings(optim: OptimConfig) -> dict[str, Any]:
    return {"betas": (optim.lion_beta1, optim.lion_beta2)}


def _described(optim: OptimConfig) -> str:
    return f"betas {optim.lion_beta1:g} and {optim.lion_beta2:g}"


def _over(adam: torch.optim.Optimizer) -> torch.optim.Optimizer:
    from pretrain.optim.in_place import InPlace

    return InPlace(adam, _update, settings=_settings(OptimConfig(lr=0.0)), counts_updates=False)


def _update(
    mains: list[torch.Tensor],
    gradients: list[torch.Tensor],
    states: list[dict[str, torch.Tensor]],
    group: dict[str, Any],
) -> None:
    import torch

    averages = [state["exp_avg"] for state in states]
    (beta1, beta2), rate = group["betas"], group["lr"]
    direction = torch._foreach_lerp(averages, gradients, 1 - beta1)
    torch._foreach_sign_(direction)
    torch._foreach_mul_(mains, 1 - rate * group["weight_decay"])
    torch._foreach_add_(mains, direction, alpha=-rate)
    torch._foreach_lerp_(averages, gradients, 1 - beta2)


OPTIMIZER = Optimizer(
    title="Lion",
    states=("exp_avg",),
    counts_updates=False,
    settings=_settings,
    described=_described,
    over=_over,
)
