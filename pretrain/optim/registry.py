"""Description of an optimizer, and how it is found: ``optim.name`` is the name of its file in this room.

A new optimizer is a file with an ``OPTIMIZER``, and its name and keys in config/schema/optim.py. No torch here, nor at the top of
an optimizer's file: ``launch`` asks on login nodes how large checkpoints become.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pretrain.config.schema import OptimConfig
from pretrain.model.families.table import TensorSpec

if TYPE_CHECKING:
    import torch
    from megatron.core.optimizer import MegatronOptimizer

    from pretrain.optim.shards import Shards

MASTER = "param"
"""Name of the fp32 master values in a checkpoint, which every optimizer has."""


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
    told_of_shards: Callable[[torch.optim.Optimizer, Shards], None] | None = None
    """Receiver of the places of its masters in the whole model (``shards.py``), where an update depends on whole tensors; given
    what ``over`` built, before any update."""
    takes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """States that mean the same in another optimizer, by its ``optim.name``: kept where a run begins with its checkpoint, as is the
    number of updates. Those that are not here start at zero. An optimizer that is not here leaves nothing to keep."""
    states_of: Callable[[TensorSpec], tuple[str, ...]] | None = None
    """Which of ``states`` it keeps of a tensor, in their order; None keeps all of every tensor."""
    place: (
        Callable[[torch.optim.Optimizer, MegatronOptimizer, Mapping[torch.nn.Parameter, TensorSpec]], None] | None
    ) = None
    """Called once with what ``over`` has built, before any update, where an optimizer needs more than each parameter's own numbers:
    with the optimizer of megatron-core that holds it, and the tensors by the parameters of this rank."""

    def kept_of(self, spec: TensorSpec) -> tuple[str, ...]:
        """Return the names of the states that it keeps of a tensor."""
        return self.states if self.states_of is None else self.states_of(spec)


def optimizer_of(optim: OptimConfig) -> Optimizer:
    """Return the optimizer that the config names."""
    found = import_module(f"pretrain.optim.{optim.name}").OPTIMIZER
    assert isinstance(found, Optimizer), f"pretrain/optim/{optim.name}.py states a {type(found).__name__}"
    return found


def decay_described(optim: OptimConfig) -> str:
    """Return the weight decay in words, and what else than matrices it acts on, or not."""
    words = [f"weight decay {optim.weight_decay:g}"]
    words += ["none on embeddings"] * (not optim.weight_decay_on_embeddings)
    words += ["on norms and biases too"] * optim.weight_decay_on_vectors
    words += ["falling with the learning rate"] * optim.adamc_weight_decay
    return words[0] + (f" ({', '.join(words[1:])})" if words[1:] else "")


def states_kept(optim: OptimConfig, before: str) -> tuple[str, ...]:
    """Return the states that the configured optimizer can keep of one of the name ``before``; empty if there are none."""
    stated = optimizer_of(optim)
    return stated.states if before == optim.name else stated.takes.get(before, ())


def checkpoint_states(optim: OptimConfig) -> tuple[str, ...]:
    """Return the names of all that a checkpoint holds of each parameter, the master values first."""
    return (MASTER, *optimizer_of(optim).states)


def checkpoint_states_of(optim: OptimConfig, spec: TensorSpec) -> tuple[str, ...]:
    """Return the names of all that a checkpoint holds of one tensor, the master values first."""
    return (MASTER, *optimizer_of(optim).kept_of(spec))


def num_states(optim: OptimConfig) -> Callable[[TensorSpec], int]:
    """Return a function that counts the float32 numbers that a checkpoint holds of each parameter of a tensor."""
    stated = optimizer_of(optim)
    return lambda spec: 1 + len(stated.kept_of(spec))
