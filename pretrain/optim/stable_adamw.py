"""StableAdamW: AdamW whose learning rate falls, tensor by tensor, where the second moment has not followed the gradient.

Each tensor's rate is divided by the root mean square of its gradient over the root of its second moment, where that is above 1: the
update clipping of Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235) in AdamW. Source: Wortsman et al., Stable and low-precision
training for large-scale vision-language models, 2023 (arXiv:2304.13013), algorithm 2. Masters and states take 12 bytes a
parameter, as AdamW's; an update needs the memory of the largest tensor's part besides, and one collective of a number for each
tensor of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pretrain.config.schema import OptimConfig
from pretrain.optim.registry import Optimizer

if TYPE_CHECKING:
    import torch

    from pretrain.optim.shards import Shards


def _settings(optim: OptimConfig) -> dict[str, Any]:
    return {"betas": (optim.adam_beta1, optim.adam_beta2), "eps": optim.adam_eps}


def _described(optim: OptimConfig) -> str:
    return f"betas {optim.adam_beta1:g} and {optim.adam_beta2:g}, updates clipped by tensor"


def _over(adam: torch.optim.Optimizer) -> torch.optim.Optimizer:
    from pretrain.optim.clipped_adamw import ClippedAdamW

    return ClippedAdamW(adam, _settings(OptimConfig(lr=0.0)))


def _told_of_shards(made: torch.optim.Optimizer, shards: Shards) -> None:
    from pretrain.optim.clipped_adamw import ClippedAdamW

    assert isinstance(made, ClippedAdamW), f"{type(made).__name__} is not what was made"
    made.shards = shards


OPTIMIZER = Optimizer(
    title="StableAdamW",
    states=("exp_avg", "exp_avg_sq"),
    counts_updates=True,
    settings=_settings,
    described=_described,
    over=_over,
    told_of_shards=_told_of_shards,
    takes=dict.fromkeys(("adamw", "ademamix"), ("exp_avg", "exp_avg_sq")),
)
