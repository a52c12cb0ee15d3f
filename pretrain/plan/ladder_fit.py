"""The loss of a large run, predicted from the finished runs of its ladder: which form of the law they can tell, and how far off
the law was where it could be checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fanal.errors import UserError
from pretrain.config.schema import RunConfig
from pretrain.plan.ladder import size_of
from pretrain.plan.ladder_runs import Finished, FinishedRung
from pretrain.plan.law import CONSTANTS, FEWEST_RUNS, Form, Law, Prediction, Size, fit, predict

SAME_RATIO = 1.25
"""Tokens for each parameter that differ by no more than this factor count as the same."""
TOLD_APART = 2.0
"""Least factor between the tokens for each parameter of runs that tell the exponents of N and D apart."""


@dataclass(frozen=True, kw_only=True)
class LadderFit:
    """All that ``fanal plan --fit`` says."""

    config: str
    target: Size
    finished: Finished
    used: tuple[FinishedRung, ...]
    """Runs that the law was fitted to: all, or those at the large run's tokens for each parameter."""
    prediction: Prediction
    left_out: float | None
    """Loss of the run with most operations, predicted from the others; None where they are too few."""

    @property
    def form(self) -> Form:
        """The form of the law."""
        return self.prediction.law.form

    @property
    def times_further(self) -> float:
        """The large run's operations over those of the largest that was used."""
        return self.target.flops / max(one.size.flops for one in self.used)


def fit_ladder(config: str, run: RunConfig, finished: Finished) -> LadderFit:
    """Return what the finished runs say of a run. Raises: UserError if they are too few, or too alike, for a law."""
    target = size_of(run)
    form, used = choose(finished, target)
    sizes, losses = [one.size for one in used], [one.loss for one in used]
    return LadderFit(
        config=config,
        target=target,
        finished=finished,
        used=tuple(used),
        prediction=predict(form, sizes, losses, target),
        left_out=_without_largest(form, used),
    )


def choose(finished: Finished, target: Size) -> tuple[Form, Sequence[FinishedRung]]:
    """Return the form of the law that the runs can tell, and the runs that it takes."""
    rungs = finished.rungs
    ratios = [one.size.tokens / one.size.parameters for one in rungs]
    enough = len(rungs) >= FEWEST_RUNS["parameters and tokens"]
    if enough and max(ratios) >= TOLD_APART * min(ratios) and _sizes(rungs) > 1:
        return "parameters and tokens", rungs
    own = target.tokens / target.parameters
    alike = [one for one, ratio in zip(rungs, ratios, strict=True) if own / SAME_RATIO <= ratio <= own * SAME_RATIO]
    if len(alike) >= FEWEST_RUNS["compute"] and _sizes(alike) > 1:
        return "compute", alike
    still = f"; not finished: {', '.join(finished.missing)}" if finished.missing else ""
    raise UserError(
        f"--fit needs {FEWEST_RUNS['compute']} finished runs of different sizes with about CONFIG's {own:,.4g} tokens for each "
        f"parameter, and there are {len(alike)}, or {FEWEST_RUNS['parameters and tokens']} whose tokens for each parameter differ "
        f"by a factor of {TOLD_APART:g}, and there are {len(rungs)} in all{still}; --ladder with a new folder and without --fit "
        "writes five of the first kind"
    )


def _sizes(rungs: Sequence[FinishedRung]) -> int:
    return len({one.size.parameters for one in rungs})


def _without_largest(form: Form, used: Sequence[FinishedRung]) -> float | None:
    largest = max(used, key=lambda one: one.size.flops)
    others = [one for one in used if one is not largest]
    if len(others) < CONSTANTS[form]:
        return None
    law: Law = fit(form, [one.size for one in others], [one.loss for one in others])
    return law.loss(largest.size)
