"""The update of StableAdamW (stable_adamw.py), on what a rank holds of each tensor."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from pretrain.optim.in_place import Piece, pieces
from pretrain.optim.shards import Shards
from pretrain.optim.states import STEP, take_groups


class ClippedAdamW(torch.optim.Optimizer):
    """AdamW with a learning rate of each tensor's own, at most the group's. It uses the gradients up."""

    def __init__(self, adam: torch.optim.Optimizer, settings: dict[str, Any]) -> None:
        super().__init__([torch.zeros(1)], settings | {"lr": 0.0, "weight_decay": 0.0})
        take_groups(self, adam)
        self.shards: Shards | None = None
        """Places of the masters; None where each of them is a whole tensor."""
        for group in self.param_groups:
            group[STEP] = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Make one update. Collective over the ranks of the gradient norm; no device sync."""
        mains, sums = [], []
        for group in self.param_groups:
            group[STEP] += 1
            for main in group["params"]:
                if main.grad is not None:
                    mains.append(main)
                    sums.append(self._followed(main, main.grad, group))
        if self.shards is None:
            means = [total / main.numel() for main, total in zip(mains, sums, strict=True)]
        else:
            means = self.shards.means(mains, sums)
        ratios = dict(zip(mains, means, strict=True))
        for group in self.param_groups:
            for main in group["params"]:
                if main.grad is not None:
                    rate = group["lr"] / ratios[main].sqrt().clamp(min=1.0)
                    for piece in self._pieces_of(main, main.grad):
                        _change(*piece, rate.float(), group)

    def _followed(self, main: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Let both moments follow the gradient; return the sum of its squares over the second moment, of what counts here."""
        left = main.numel() if self.shards is None else self.shards.of_master[main].num_counted
        total = torch.zeros((), dtype=torch.float64, device=main.device)
        for piece in self._pieces_of(main, gradient):
            ratios = _follow(*piece, group).reshape(-1)
            total += ratios[: max(0, left)].sum(dtype=torch.float64)
            left -= len(ratios)
        return total

    def _pieces_of(self, main: torch.Tensor, gradient: torch.Tensor) -> Iterator[Piece]:
        return pieces(main, gradient, {name: self.state[main][name] for name in ("exp_avg", "exp_avg_sq")})


def _follow(
    main: torch.Tensor, gradient: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]
) -> torch.Tensor:
    """Let both moments follow the gradient; return its squares over the second moment, in its memory."""
    beta1, beta2 = group["betas"]
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    second = (state["exp_avg_sq"] / (1 - beta2 ** group[STEP])).clamp_(min=group["eps"] ** 2)
    return gradient.square_().div_(second)


def _change(
    main: torch.Tensor, free: torch.Tensor, state: dict[str, torch.Tensor], rate: torch.Tensor, group: dict[str, Any]
) -> None:
    """Change a master in place. Args: free, memory that nobody needs any more, [main]; rate, one number."""
    (beta1, beta2), update = group["betas"], group[STEP]
    torch.sqrt(state["exp_avg_sq"], out=free)
    free.div_(math.sqrt(1 - beta2**update)).add_(group["eps"])
    torch.div(state["exp_avg"], free, out=free)
    free.div_(1 - beta1**update).add_(main, alpha=group["weight_decay"])
    main.sub_(free.mul_(rate))
