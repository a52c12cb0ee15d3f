"""What a stability report says of parameters: norms of gradients, weights and updates, from the masters that this rank keeps."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from pretrain.model.figures import Figures, Sum, row_of_tensor
from pretrain.model.placement import Placement, place_parameters
from pretrain.optim.states import Master, masters
from pretrain.parallel.world import World


class ParameterFigures:
    """The fp32 masters that this rank counts: of all ranks together, each element of the model once."""

    def __init__(
        self, model: list[DistributedDataParallel], optimizer: MegatronOptimizer, world: World, num_layers: int
    ) -> None:
        places = {placement.parameter: placement for placement in place_parameters(model, world)}
        counts = [(one, num_counted(places[one.parameter], one, world)) for one in masters(optimizer)]
        self._optimizer = optimizer
        self._counts = [(one.master, count) for one, count in counts if count]
        """Masters, and how many elements of each, from the first on, this rank counts."""
        rows = [row_of_tensor(places[one.parameter].name, num_layers) for one, count in counts if count]
        self._rows = torch.tensor(rows, dtype=torch.int64).to(world.device)
        """Row of each master in Figures, made once: a copy from the host would wait."""

    @contextlib.contextmanager
    def watched(self, figures: Figures) -> Iterator[None]:
        """Add the norms of the step in this block: of gradients as they are ready, before clipping; of the weights that they belong
        to; and of the update, if one is made.

        During the update a copy of the masters is held. No collective, no host wait.
        """
        optimizer = self._optimizer
        make_ready, update = optimizer.prepare_grads, optimizer.step_with_ready_grads

        def prepare_grads() -> bool:
            overflow = make_ready()
            self._add("gradient", figures, [_gradient_of(master).view(-1)[:count] for master, count in self._counts])
            self._add("weight", figures, self._counted())
            return overflow

        def step_with_ready_grads() -> bool:
            change = [values.clone() for values in self._counted()]
            success = update()
            for before, after in zip(change, self._counted(), strict=True):
                before.sub_(after)
            self._add("update", figures, change)
            return success

        optimizer.prepare_grads, optimizer.step_with_ready_grads = prepare_grads, step_with_ready_grads
        try:
            yield
        finally:
            del optimizer.prepare_grads, optimizer.step_with_ready_grads

    def _counted(self) -> list[torch.Tensor]:
        """Return the values of the masters that count here, flat."""
        return [master.detach().view(-1)[:count] for master, count in self._counts]

    @torch.no_grad()
    def _add(self, what: Sum, figures: Figures, tensors: Sequence[torch.Tensor]) -> None:
        if not tensors:
            return
        norms = torch._foreach_norm(list(tensors), 2, torch.float64)  # pyright: ignore[reportPrivateImportUsage]
        figures.add_rows(what, self._rows, torch.stack(norms).square())


def num_counted(placement: Placement, master: Master, world: World) -> int:
    """Return how many elements of a master, from the first on, this rank counts: not those of which tensor-parallel ranks or a tied
    embedding have another copy that is counted, nor any if another rank keeps the same.
    """
    if not master.is_split and world.dp_cp_rank != 0:
        return 0
    return min(master.master.numel(), max(0, placement.num_answered_for - master.start))


def _gradient_of(master: torch.Tensor) -> torch.Tensor:
    assert master.grad is not None, "gradients are ready, and every parameter has one"
    return master.grad
