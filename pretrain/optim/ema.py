"""Exponential moving average of the weights (optim.ema_decay), beside the fp32 masters and split among ranks as they are.

After each update that was applied, average = decay * average + (1 - decay) * master. It counts updates, not samples: after n more
of them a value still has the weight decay**n, whatever the batch, and a step that was skipped changes nothing. It begins with the
weights, not with zeros, so nothing is divided by 1 - decay**n: at the start of a run it is near its initial weights, which still
have a share of decay**n.

Polyak and Juditsky (1992); in place of a learning-rate decay: Izmailov et al. (2018).
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from pretrain.optim.registry import EMA
from pretrain.optim.states import finish_param_sync, inner_optimizers, publish_masters

DECAY = "ema_decay"
"""Key of the decay in each group of parameters, beside the learning rate; a run without an average has none."""


def make_averages(optimizer: MegatronOptimizer, decay: float) -> None:
    """Keep an average of every master from now on: one more fp32 number of each parameter."""
    for inner in inner_optimizers(optimizer):
        for group in inner.optimizer.param_groups:
            group[DECAY] = decay
            for main in group["params"]:
                inner.optimizer.state[main][EMA] = torch.empty_like(main, requires_grad=False)
    begin_averages(optimizer)


@torch.no_grad()
def begin_averages(optimizer: MegatronOptimizer) -> None:
    """Set every average to the masters as they are now; does nothing in a run that keeps none."""
    for averages, mains, _ in _averages(optimizer):
        torch._foreach_copy_(averages, mains)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def update_averages(optimizer: MegatronOptimizer) -> None:
    """Move every average towards its master, after an update; does nothing in a run that keeps none. No collective, no wait."""
    for averages, mains, decay in _averages(optimizer):
        torch._foreach_lerp_(averages, mains, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]


@contextlib.contextmanager
def averages_in_place(optimizer: MegatronOptimizer, model: Sequence[DistributedDataParallel]) -> Iterator[None]:
    """Have the model compute with the averages for the duration of a block that trains nothing; afterwards every bit is as before.

    The masters change places with their averages, so it costs the memory of one parameter, and two gathers of the weights.
    Collective over data-parallel ranks. After an exception nothing is put back: no collective may follow it.
    """
    finish_param_sync(model)
    _exchange(optimizer, model)
    yield
    _exchange(optimizer, model)


@torch.no_grad()
def _exchange(optimizer: MegatronOptimizer, model: Sequence[DistributedDataParallel]) -> None:
    for averages, mains, _ in _averages(optimizer):
        for average, main in zip(averages, mains, strict=True):
            before = main.clone()
            main.copy_(average)
            average.copy_(before)
    publish_masters(optimizer, model)


def _averages(optimizer: MegatronOptimizer) -> list[tuple[list[torch.Tensor], list[torch.Tensor], float]]:
    """Return (averages, their masters, the decay) of each group of parameters that keeps some."""
    return [
        ([inner.optimizer.state[main][EMA] for main in group["params"]], group["params"], group[DECAY])
        for inner in inner_optimizers(optimizer)
        for group in inner.optimizer.param_groups
        if DECAY in group and group["params"]
    ]
