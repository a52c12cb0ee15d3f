"""A torch optimizer whose update is one function of a group's tensors: what the optimizers of this room that are not Adam share."""

from collections.abc import Callable
from typing import Any

import torch

from pretrain.optim.states import STEP, take_groups

Update = Callable[[list[torch.Tensor], list[torch.Tensor], list[dict[str, torch.Tensor]], dict[str, Any]], None]
"""Function that changes the masters of a group and their states in place. It is given the masters, their gradients, whose memory it
may use up, their states, and the group with its settings."""


class InPlace(torch.optim.Optimizer):
    """An optimizer over the groups that megatron-core made for Adam, which counts updates in each group if it counts them."""

    def __init__(
        self, adam: torch.optim.Optimizer, update: Update, *, settings: dict[str, Any], counts_updates: bool
    ) -> None:
        super().__init__([torch.zeros(1)], settings | {"lr": 0.0, "weight_decay": 0.0})
        self._update = update
        self._counts_updates = counts_updates
        take_groups(self, adam)
        if counts_updates:
            for group in self.param_groups:
                group[STEP] = 0  # in one that has no parameter on this rank as well

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Make one update. No device sync."""
        for group in self.param_groups:
            if self._counts_updates:
                group[STEP] += 1
            mains, gradients = [], []
            for main in group["params"]:
                if main.grad is not None:
                    mains.append(main)
                    gradients.append(main.grad)
            if mains:
                self._update(mains, gradients, [self.state[main] for main in mains], group)
