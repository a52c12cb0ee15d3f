"""Spike detection: whether a step's loss or gradient norm stands out of the last ones. Pure: numbers in, a verdict out.

A spike is judged before the update, so that it can be skipped. All that is remembered is in TrainState: a resumed run judges
as the straight one does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config.schema import SpikeConfig
from pretrain.state import Recent, Skip, TrainState

SMALLEST_DEVIATION = 1e-3
"""Smallest standard deviation, as a share of the mean. Without it a series that hardly moves, such as the loss of a text learnt by
heart, would have spikes without cause."""
LARGEST_ENTRY = 2.0
"""Upper limit of a value that enters the window, in thresholds above the mean."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement of a step: a spike or not, and whether to skip it."""

    loss_z: float | None
    """Standard deviations of the loss above the window's mean; None without enough steps, or for a value that is not finite."""
    grad_norm_z: float | None
    is_spike: bool
    skip: Skip | None
    """Reason to skip the update; None applies it."""
    out_of_budget: bool
    """Whether a spike is trained on because train.spikes.max_skipped_spikes have been skipped."""
    recent: Recent
    """Recent values that the next step is compared with."""


def judge(*, loss: float, grad_norm: float, state: TrainState, config: SpikeConfig | None) -> Verdict:
    """Judge the step that follows ``state``. Args: loss, grad_norm of that step, before the update."""
    not_finite: Skip | None = None if math.isfinite(grad_norm) else "not finite"
    if config is None:
        return Verdict(
            loss_z=None, grad_norm_z=None, is_spike=False, skip=not_finite, out_of_budget=False, recent=Recent()
        )
    loss_z, losses = _compare(loss, state.recent.losses, config)
    grad_norm_z, grad_norms = _compare(grad_norm, state.recent.grad_norms, config)
    is_spike = any(z is not None and z > config.z_score for z in (loss_z, grad_norm_z))
    wanted = is_spike and config.skip and not_finite is None
    allowed = state.skipped_spikes < config.max_skipped_spikes
    return Verdict(
        loss_z=loss_z,
        grad_norm_z=grad_norm_z,
        is_spike=is_spike,
        skip="spike" if wanted and allowed else not_finite,
        out_of_budget=wanted and not allowed,
        recent=Recent(losses=losses, grad_norms=grad_norms),
    )


def _compare(value: float, recent: Sequence[float], config: SpikeConfig) -> tuple[float | None, tuple[float, ...]]:
    """Return (z-score of a value among the recent ones, the recent ones with it).

    A spike enters the window as at most LARGEST_ENTRY thresholds: with the defaults one spike raises the bar by half, whatever
    its size, so it does not hide the next; and a level that has changed for good is the norm after a few steps.
    """
    window = tuple(recent[-config.window_steps :])  # the window may have been made shorter at a resume
    if not math.isfinite(value):
        return None, window
    if len(window) < config.min_steps:
        return None, (*window, value)[-config.window_steps :]
    mean = math.fsum(window) / len(window)
    variance = math.fsum((past - mean) * (past - mean) for past in window) / len(window)
    deviation = max(math.sqrt(variance), SMALLEST_DEVIATION * abs(mean), 1e-30)
    entry = min(value, mean + LARGEST_ENTRY * config.z_score * deviation)
    return (value - mean) / deviation, (*window, entry)[-config.window_steps :]
