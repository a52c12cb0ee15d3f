"""AdamW (Loshchilov and Hutter, 2019), as megatron-core makes it: that of Transformer Engine, else of Apex, else of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pretrain.config.schema import OptimConfig
from pretrain.optim.registry import Optimizer

if TYPE_CHECKING:
    import torch


def _settings(optim: OptimConfig) -> dict[str, Any]:
    return {"betas": (optim.adam_beta1, optim.adam_beta2), "eps": optim.adam_eps}


def _described(optim: OptimConfig) -> str:
    return f"betas {optim.adam_beta1:g} and {optim.adam_beta2:g}"


def _over(adam: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return Adam itself, its counters of updates made before the first one, so that a checkpoint can set them."""
    import torch

    for group in adam.param_groups:
        if not isinstance(adam, torch.optim.Adam):
            # Those of Apex and Transformer Engine count in the group, and not in one that has no parameter on this rank.
            if group["params"]:
                group["step"] = 0
            continue
        # One pass over each parameter, where torch's own choice makes ten and on a GPU holds one more copy of the shard.
        group["fused"], group["foreach"] = True, False
        for main in group["params"]:
            # torch counts per parameter: a counter that parameters share would run ahead
            adam.state[main]["step"] = torch.zeros((), dtype=torch.float32, device=main.device)
    return adam


OPTIMIZER = Optimizer(
    title="AdamW",
    states=("exp_avg", "exp_avg_sq"),
    counts_updates=True,
    settings=_settings,
    described=_described,
    over=_over,
    takes=dict.fromkeys(("ademamix", "stable_adamw"), ("exp_avg", "exp_avg_sq")),
)
