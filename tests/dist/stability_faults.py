"""Planted faults of the stability report: training goes on as it would. Called in every rank before the run starts."""

from dataclasses import replace
from typing import Any

import torch


def copies_over_tensor_ranks_counted_twice() -> None:
    """What every tensor-parallel rank holds whole, such as the weight of a norm, is counted on each of them."""
    from pretrain.optim import parameter_figures

    count = parameter_figures.num_counted

    def broken(placement: Any, master: Any, world: Any) -> int:
        is_whole = placement.pieces[0].num_holders == world.tensor_model_parallel_size
        counts = is_whole and (master.is_split or world.dp_rank == 0)
        return master.master.numel() if counts else count(placement, master, world)

    parameter_figures.num_counted = broken


def tied_copy_counted_twice() -> None:
    """The last stage counts its copy of a tied embedding."""
    from pretrain.optim import parameter_figures

    count = parameter_figures.num_counted

    def broken(placement: Any, master: Any, world: Any) -> int:
        is_tied = placement.pieces[0].num_holders == 1 and (master.is_split or world.dp_rank == 0)
        return master.master.numel() if is_tied else count(placement, master, world)

    parameter_figures.num_counted = broken


def masters_of_every_replica_counted() -> None:
    """Replicas that all keep the whole model each count it."""
    from pretrain.optim import parameter_figures

    count = parameter_figures.num_counted
    parameter_figures.num_counted = lambda placement, master, world: count(
        placement, replace(master, is_split=True), world
    )


def layers_counted_from_each_stage() -> None:
    """A pipeline stage gives its layers the numbers from 1 on."""
    from megatron.core import parallel_state

    from pretrain.model import forward_figures

    row_of_layer = forward_figures.row_of_layer

    def broken(layer: Any) -> int:
        rank, stages = (
            parallel_state.get_pipeline_model_parallel_rank(),
            parallel_state.get_pipeline_model_parallel_world_size(),
        )
        return row_of_layer(layer) - rank * (layer.config.num_layers // stages)

    forward_figures.row_of_layer = broken


def last_micro_batch_alone() -> None:
    """A maximum is that of the last micro batch."""
    from pretrain.model.figures import MAXIMA, Figures

    def broken(self: Any, what: Any, row: int, value: torch.Tensor) -> None:
        self._maxima[MAXIMA.index(what), row] = value

    Figures.reach = broken  # type: ignore[method-assign]


def documents_ignored_in_the_logits() -> None:
    """The largest attention logit is sought in whole rows."""
    from pretrain.model import forward_figures

    largest_logit = forward_figures.largest_logit
    forward_figures.largest_logit = lambda query, key, scale, _documents, *rest: largest_logit(
        query, key, scale, None, *rest
    )
