# pyright: reportPrivateImportUsage=false
"""AdEMAMix: Adam with a second, slow average of the gradients.

Source: Pagliardini, Ablin and Grangier, The AdEMAMix Optimizer: Better, Faster, Older, 2024 (arXiv:2409.03137).
Masters and states take 16 bytes a parameter, AdamW's 12; an update needs no memory besides.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pretrain.config.schema import OptimConfig
from pretrain.optim.registry import Optimizer

if TYPE_CHECKING:
    import torch


def alpha_at(update: int, *, alpha: float, warmup: int) -> float:
    """Return the weight of the slow average in update number ``update``, from 1 on: a line from 0."""
    return alpha * min(1.0, update / warmup) if warmup else alpha


def beta3_at(update: int, *, beta1: float, beta3: float, warmup: int) -> float:
    """Return the decay of the slow average in update number ``update``, from 1 on: its half-life, and 1 / ln(beta) with it, goes
    along a line from that of ``beta1`` to that of ``beta3``.
    """
    if update >= warmup or beta3 == 0.0:
        return beta3
    share = update / warmup
    inverse = share / math.log(beta3) + ((1 - share) / math.log(beta1) if beta1 else 0.0)
    return min(math.exp(1 / inverse), beta3)


def _settings(optim: OptimConfig) -> dict[str, Any]:
    return {
        "betas": (optim.adam_beta1, optim.adam_beta2),
        "eps": optim.adam_eps,
        "beta3": optim.ademamix_beta3,
        "alpha": optim.ademamix_alpha,
        "beta3_warmup": optim.ademamix_beta3_warmup_steps or 0,
        "alpha_warmup": optim.ademamix_alpha_warmup_steps or 0,
    }


def _described(optim: OptimConfig) -> str:
    of_alpha, of_beta3 = optim.ademamix_alpha_warmup_steps or 0, optim.ademamix_beta3_warmup_steps or 0
    return (
        f"betas {optim.adam_beta1:g}, {optim.adam_beta2:g} and {optim.ademamix_beta3:g} (warmed up over {of_beta3:,} updates), "
        f"alpha {optim.ademamix_alpha:g} (over {of_alpha:,})"
    )


def _over(adam: torch.optim.Optimizer) -> torch.optim.Optimizer:
    from pretrain.optim.in_place import InPlace

    return InPlace(adam, _update, settings=_settings(OptimConfig(lr=0.0)), counts_updates=True)


def _update(
    mains: list[torch.Tensor],
    gradients: list[torch.Tensor],
    states: list[dict[str, torch.Tensor]],
    group: dict[str, Any],
) -> None:
    import torch

    fast, slow, square = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_slow", "exp_avg_sq"))
    (beta1, beta2), update, rate = group["betas"], group["step"], group["lr"]
    beta3 = beta3_at(update, beta1=beta1, beta3=group["beta3"], warmup=group["beta3_warmup"])
    torch._foreach_lerp_(fast, gradients, 1 - beta1)
    torch._foreach_lerp_(slow, gradients, 1 - beta3)
    torch._foreach_mul_(square, beta2)
    torch._foreach_addcmul_(square, gradients, gradients, 1 - beta2)
    root = gradients  # whose memory is free now: a temporary would be a fourth of masters and states
    torch._foreach_copy_(root, square)
    torch._foreach_sqrt_(root)
    torch._foreach_div_(root, math.sqrt(1 - beta2**update))
    torch._foreach_add_(root, group["eps"])
    torch._foreach_mul_(mains, 1 - rate * group["weight_decay"])
    torch._foreach_addcdiv_(mains, fast, root, -rate / (1 - beta1**update))
    # The slow average has no bias correction: its weight grows in its place.
    weight = alpha_at(update, alpha=group["alpha"], warmup=group["alpha_warmup"])
    torch._foreach_addcdiv_(mains, slow, root, -rate * weight)


OPTIMIZER = Optimizer(
    title="AdEMAMix",
    states=("exp_avg", "exp_avg_sq", "exp_avg_slow"),
    counts_updates=True,
    settings=_settings,
    described=_described,
    over=_over,
    takes=dict.fromkeys(("adamw", "stable_adamw"), ("exp_avg", "exp_avg_sq")),
)
