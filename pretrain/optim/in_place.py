"""A torch optimizer whose update is one function of a group's tensors: what the optimizers of this room that are not Adam share."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from pretrain.optim.states import STEP, take_groups

Update = Callable[[list[torch.Tensor], list[torch.Tensor], list[dict[str, torch.Tensor]], dict[str, Any]], None]
"""Function that changes the masters of a group and their states in place. It is given the masters, their gradients, whose memory it
may use up, their states, and the group with its settings."""

Piece = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]
"""A master, its gradient and its states, or a part of them."""
PIECE = 1 << 18
"""Elements of a piece on a CPU, 1 MiB of each tensor: of 2^14 to 2^18 the fastest. A GPU takes all tensors in one operation."""


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
            whole = [(main, main.grad, self._states_of(main)) for main in group["params"] if main.grad is not None]
            if whole and whole[0][0].device.type == "cpu":
                for one in whole:
                    for main, gradient, states in pieces(*one):
                        self._update([main], [gradient], [states], group)
            elif whole:
                mains, gradients, states = zip(*whole, strict=True)
                self._update(list(mains), list(gradients), list(states), group)

    def _states_of(self, main: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.state[main].items() if name != STEP}


def pieces(main: torch.Tensor, gradient: torch.Tensor, states: dict[str, torch.Tensor]) -> Iterator[Piece]:
    """Yield a master, its gradient and its states in pieces that stay in a core's cache from one operation to the next; on a GPU
    as they are."""
    whole = (main, gradient, *states.values())
    if main.device.type != "cpu" or any(not tensor.is_contiguous() for tensor in whole):
        yield main, gradient, states
        return
    for values, slope, *rest in zip(*(tensor.view(-1).split(PIECE) for tensor in whole), strict=True):
        yield values, slope, dict(zip(states, rest, strict=True))
