"""AdamW by our Triton kernel: gradient clipping, the update and the copy into narrow parameters in one pass over each master.

torch's fused update is a pass of its own, clipping another one before it, and megatron-core's copy a third. Which one runs:
``kernels.adamw``. Not yet run on a GPU.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer

from fanal.kernels.operation_trial import choose_with_trial
from pretrain.optim import adamw
from pretrain.optim.registry import Optimizer
from pretrain.optim.states import STEP, inner_optimizers, masters_of, take_groups

logger = logging.getLogger(__name__)


class FusedAdamW(torch.optim.Optimizer):
    """AdamW over the groups of an Adam. It counts in the groups, as Apex and Transformer Engine do: the host knows the number."""

    def __init__(self, adam: torch.optim.Optimizer, step: Callable[..., None]) -> None:
        """Args: adam: what megatron-core made, without any state; step: with the signature of kernels.reference.adamw."""
        super().__init__([torch.zeros(1)], {})
        take_groups(self, adam)
        self._step = step
        self._clip: float | None = None
        self._copies: dict[torch.Tensor, torch.Tensor] = {}
        for group in self.param_groups:
            if group["params"]:
                group[STEP] = 0

    def write_copies(self, copies: dict[torch.Tensor, torch.Tensor]) -> None:
        """Write masters rounded to a copy of each, [n], in the pass of their update. Args: copies: master -> copy."""
        self._copies = copies

    def clip_next(self, factor: float) -> None:
        """Multiply the gradients of the next update by a factor, in its pass. They stay as they are."""
        self._clip = factor

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one update of every master that has a gradient. No host sync."""
        clips: dict[torch.device, torch.Tensor | None] = {}
        for group in self.param_groups:
            if group["params"]:
                group[STEP] += 1
            for main in group["params"]:
                if main.grad is None:
                    continue
                if main.device not in clips:
                    # Filled on the device: no copy from the host.
                    clips[main.device] = None if self._clip is None else torch.full((), self._clip, device=main.device)
                kept = self.state[main]
                self._step(
                    *(tensor.view(-1) for tensor in (main, kept["exp_avg"], kept["exp_avg_sq"], main.grad)),
                    learning_rate=group["lr"],
                    betas=group["betas"],
                    eps=group["eps"],
                    weight_decay=group["weight_decay"],
                    update=group[STEP],
                    clip=clips[main.device],
                    copy=self._copies.get(main),
                )
        self._clip = None


def with_kernel(stated: Optimizer, requested: str, device: torch.device, dtype: torch.dtype) -> Optimizer:
    """Return AdamW over our kernel where it is chosen, logged with the reason; any other optimizer as it is.

    Args: requested: kernels.adamw; dtype: of the parameters.
    Raises: UserError if Triton is requested and cannot run here.
    """
    if stated is not adamw.OPTIMIZER:
        return stated
    choice = choose_with_trial("adamw", requested, "adamw", device, dtype, triton=_triton)
    logger.info("kernels.adamw: %s (%s)", choice.backend, choice.reason)
    return replace(stated, over=_over) if choice.backend == "triton" else stated


def copy_in_the_update(optimizer: MegatronOptimizer) -> None:
    """Have every update by our kernel write the narrow parameters, and leave out megatron-core's copy behind it.

    Called once the states are made. ``publish_masters`` still copies, by megatron-core's own method.
    """
    for inner in inner_optimizers(optimizer):
        if isinstance(inner.optimizer, FusedAdamW):
            inner.optimizer.write_copies(
                {
                    main: parameter.detach().view(-1)[start : start + main.numel()]
                    for parameter, main, start in masters_of(inner)
                    if parameter.dtype != main.dtype  # else the master is the parameter's own memory
                }
            )
            inner._copy_main_params_to_model_params = _nothing  # type: ignore[attr-defined]


def _triton() -> Callable[..., Any]:
    from fanal.kernels.triton.adamw import adamw_step

    return adamw_step


def _over(adam: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return FusedAdamW(adam, _triton())


def _nothing(*_: Any, **__: Any) -> None: ...
