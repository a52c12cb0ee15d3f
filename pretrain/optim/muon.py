"""Muon (Jordan et al., 2024) for the matrices of the layers, AdamW for all other parameters.

The momentum of each matrix is orthogonalized: its singular values become about 1. What is a matrix, who orthogonalizes it and what
that costs: matrices.py. The scale of the updates is that of Moonlight (Liu et al., 2025, arXiv:2502.16982), the weight decay is
decoupled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.config.schema import OptimConfig
from pretrain.model.families.table import TensorSpec
from pretrain.optim.registry import Optimizer

if TYPE_CHECKING:
    import torch
    from megatron.core.optimizer import MegatronOptimizer


def _settings(optim: OptimConfig) -> dict[str, Any]:
    return {
        "betas": (optim.adam_beta1, optim.adam_beta2),
        "eps": optim.adam_eps,
        "momentum": optim.muon_momentum,
        "nesterov": optim.muon_nesterov,
        "num_ns_steps": optim.muon_num_ns_steps,
        "scale": optim.muon_scale,
    }


def _described(optim: OptimConfig) -> str:
    nesterov = "Nesterov momentum" if optim.muon_nesterov else "momentum"
    return (
        f"{nesterov} {optim.muon_momentum:g}, {optim.muon_num_ns_steps} Newton-Schulz iterations, scale {optim.muon_scale}; AdamW "
        f"for embedding, output layer, norms and biases: betas {optim.adam_beta1:g} and {optim.adam_beta2:g}"
    )


def _over(adam: torch.optim.Optimizer) -> torch.optim.Optimizer:
    from pretrain.optim.muon_update import Muon

    return Muon(adam)


def _place(
    optimizer: torch.optim.Optimizer, inner: MegatronOptimizer, specs: Mapping[torch.nn.Parameter, TensorSpec]
) -> None:
    from pretrain.optim.muon_update import Muon

    assert isinstance(optimizer, Muon), f"Muon is not a {type(optimizer).__name__}"
    optimizer.place(inner, specs)


def _states_of(spec: TensorSpec) -> tuple[str, ...]:
    """No memory for second moments of matrices, which are nearly all of a large model."""
    return ("exp_avg",) if spec.is_layer_matrix else ("exp_avg", "exp_avg_sq")


OPTIMIZER = Optimizer(
    title="Muon",
    states=("exp_avg", "exp_avg_sq"),
    counts_updates=True,
    settings=_settings,
    described=_described,
    over=_over,
    # All keep an average of the gradients; its decay differs.
    takes=dict.fromkeys(("adamw", "ademamix", "stable_adamw"), ("exp_avg", "exp_avg_sq")),
    states_of=_states_of,
    place=_place,
)
