"""One bit of one weight changes on one replica, right before a save."""

import os
from typing import Any

import torch

from pretrain.checkpoint.saving import save
from pretrain.checkpoint.saving.replicas import BITS
from pretrain.config.schema import RunConfig
from pretrain.train.loop import train


def drifting_rank(run: RunConfig, name: str, at_step: int) -> int:
    """One rank; the last one has the lowest bit of an element of parameter ``name`` flipped."""
    torch.set_num_threads(1)
    begin = save.Saver.begin

    def broken(saver: Any, state: Any, position: Any) -> None:
        if state.step == at_step and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            (parameter,) = (place.parameter for place in saver._placements if place.name == name)
            parameter.detach().view(-1)[3:4].view(BITS[parameter.dtype]).bitwise_xor_(1)
        begin(saver, state, position)

    save.Saver.begin = broken  # type: ignore[method-assign]
    return int(train(run))
