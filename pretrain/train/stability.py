"""The stability report: numbers by layer of a step, each log.stability_interval steps.

Wrapped around steps, not inside them: between reports nothing is hooked, and a step costs a comparison.
"""

import contextlib
import math
from collections.abc import Iterator

import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from pretrain.config.schema import RunConfig
from pretrain.log.stability_record import Norms, StabilityRecord
from pretrain.model.figures import EMBEDDING_ROW, MAXIMA, SUMS, Figures, Maximum, Sum
from pretrain.model.forward_figures import watched_forward
from pretrain.optim.parameter_figures import ParameterFigures
from pretrain.parallel.world import World
from pretrain.state import TrainState


class Stability:
    """The reports of a run; without an interval it does nothing."""

    def __init__(
        self, run: RunConfig, world: World, model: list[DistributedDataParallel], optimizer: MegatronOptimizer
    ) -> None:
        self._interval, self._num_layers = run.log.stability_interval, run.model.num_layers
        self._is_tied = run.model.share_embeddings_and_output_weights
        self._world, self._model = world, model
        is_on = self._interval is not None
        self._parameters = ParameterFigures(model, optimizer, world, self._num_layers) if is_on else None
        self._figures: Figures | None = None

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Count what this step computes, if a report is due after it. No collective and no host wait of its own."""
        if self._parameters is None or self._interval is None or step % self._interval:
            yield
            return
        figures = Figures(self._num_layers, self._world.device)
        with watched_forward(self._model, figures), self._parameters.watched(figures):
            yield
        self._figures = figures

    def record(self, state: TrainState) -> StabilityRecord | None:
        """Return the report of the step that led to ``state``, the same on every rank; None if none is due.

        Collective where one is due, two over all ranks, whatever the number of layers; one device sync.
        """
        if self._figures is None:
            return None
        figures, self._figures = self._figures, None
        dist.all_reduce(figures.flat_sums)
        dist.all_reduce(figures.flat_maxima, op=dist.ReduceOp.MAX)
        return stability_record(figures.flat.tolist(), state, num_layers=self._num_layers, is_tied=self._is_tied)


def stability_record(flat: list[float], state: TrainState, *, num_layers: int, is_tied: bool) -> StabilityRecord:
    """Return the record that the numbers of all ranks together make. Args: flat, as Figures lays them out."""
    rows = num_layers + 3
    columns = [flat[start : start + rows] for start in range(0, len(flat), rows)]
    sums: dict[Sum, list[float]] = dict(zip(SUMS, columns[: len(SUMS)], strict=True))
    maxima: dict[Maximum, list[float]] = dict(zip(MAXIMA, columns[len(SUMS) :], strict=True))
    layers = range(EMBEDDING_ROW + 1, EMBEDDING_ROW + 1 + num_layers)

    def rms(what: Sum, row: int) -> float:
        return math.sqrt(_mean(sums[what][row], sums["elements"][row]))

    def norms(row: int) -> Norms:
        gradient, weight, update = (math.sqrt(sums[what][row]) for what in ("gradient", "weight", "update"))
        ratio = _mean(update, weight)
        return Norms(gradient_norm=gradient, weight_norm=weight, update_norm=update, update_ratio=ratio)

    of_layers = [norms(row) for row in layers]
    outside = {"embedding": EMBEDDING_ROW, "final_norm": num_layers + 1, "output_layer": num_layers + 2}
    if is_tied:
        del outside["output_layer"]
    output = num_layers + 2
    return StabilityRecord(
        step=state.step,
        consumed_tokens=state.consumed_tokens,
        residual_rms=[rms("residual", row) for row in layers],
        residual_max=[maxima["residual"][row] for row in layers],
        attention_rms=[rms("attention", row) for row in layers],
        feed_forward_rms=[rms("feed_forward", row) for row in layers],
        attention_logit_max=[maxima["attention_logit"][row] for row in layers],
        gradient_norm=[one.gradient_norm for one in of_layers],
        weight_norm=[one.weight_norm for one in of_layers],
        update_norm=[one.update_norm for one in of_layers],
        update_ratio=[one.update_ratio for one in of_layers],
        outside_layers={name: norms(row) for name, row in outside.items()},
        embedding_rms=rms("residual", EMBEDDING_ROW),
        output_logit_max=maxima["output_logit"][output],
        log_denominator_mean=_mean(sums["log_denominator"][output], sums["tokens"][output]),
    )


def _mean(total: float, count: float) -> float:
    """Return a mean; of nothing it is no number, which ends no run."""
    return total / count if count else math.nan
