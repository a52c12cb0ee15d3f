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
        counted = [one for one in masters(optimizer) if counts_here(places[one.parameter], one, world)]
        self._optimizer = optimizer
        self._masters = [one.master for one in counted]
        rows = [row_of_tensor(places[one.parameter].name, num_layers) for one in counted]
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
            self._add("gradient", figures, [_gradient_of(master) for master in self._masters])
            self._add("weight", figures, self._masters)
            return overflow

        def step_with_ready_grads() -> bool:
            change = [master.detach().clone() for master in self._masters]
            success = update()
            for before, master in zip(change, self._masters, strict=True):
                before.sub_(master.detach())
            self._add("update", figures, change)
            return success

        optimizer.prepare_grads, optimizer.step_with_ready_grads = prepare_grads, step_with_ready_grads
        try:
            yield
        finally:
            del optimizer.prepare_grads, optimizer.step_with_ready_grads

    @torch.no_grad()
    def _add(self, what: Sum, figures: Figures, tensors: Sequence[torch.Tensor]) -> None:
        if not tensors:
            return
        norms = torch._foreach_norm(list(tensors), 2, torch.float64)  # pyright: ignore[reportPrivateImportUsage]
        figures.add_rows(what, self._rows, torch.stack(norms).square())


def counts_here(placement: Placement, master: Master, world: World) -> bool:
    """Return whether this rank counts a master: not if tensor-parallel ranks or a tied embedding have another copy of it that is
    counted, nor if another rank keeps the same.
    """
    return not placement.is_copy and (master.is_split or world.copy_rank == 0)


def _gradient_of(master: torch.Tensor) -> torch.Tensor:
    assert master.grad is not None, "gradients are ready, and every parameter has one"
    return master.grad
