"""Description of an optimizer, and how it is found: ``optim.name`` is the name of its file in this room.

A new optimizer is a file with an ``OPTIMIZER``, and its name and keys in config/schema/optim.py. No torch here, nor at the top of
an optimizer's file: ``launch`` asks on login nodes how large checkpoints become.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pretrain.config.schema import OptimConfig

if TYPE_CHECKING:
    import torch

MASTER = "param"
"""Name of the fp32 master values in a checkpoint, which every optimizer has."""
EMA = "ema"
"""Name of their exponential moving average, which a run with optim.ema_decay has (ema.py)."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Description of an optimizer for the rest of the trainer: to build it, and to save and restore what it keeps."""

    title: str
    """Name in messages, such as ``AdamW``."""
    states: tuple[str, ...]
    """States that it keeps of each parameter besides the master values: names in torch's state of the parameter, and in a
    checkpoint.
    Each is float32, has the shape of the parameter, and is zero before the first update."""
    counts_updates: bool
    """Whether the number of updates is a part of its state, as ``step`` of each parameter or of each group."""
    settings: Callable[[OptimConfig], dict[str, Any]]
    """Settings of its groups of parameters from the config, besides the learning rate and the weight decay."""
    described: Callable[[OptimConfig], str]
    """Settings in words, such as ``betas 0.9 and 0.95``."""
    over: Callable[[torch.optim.Optimizer], torch.optim.Optimizer]
    """Builder of the torch optimizer of the master values. It is given the Adam that megatron-core made over them, full or in
    ranges (the distributed optimizer is made with no other), and takes its groups (``states.take_groups``). Called once, before any
    update."""


def optimizer_of(optim: OptimConfig) -> Optimizer:
    """Return the optimizer that the config names."""
    found = import_module(f"pretrain.optim.{optim.name}").OPTIMIZER
    assert isinstance(found, Optimizer), f"pretrain/optim/{optim.name}.py states a {type(found).__name__}"
    return found


def checkpoint_states(optim: OptimConfig) -> tuple[str, ...]:
    """Return the names of all that a checkpoint holds of each parameter, the master values first."""
    return (MASTER, *optimizer_of(optim).states, *((EMA,) if optim.ema_decay is not None else ()))
