"""A scaling law: the loss of a model by its parameters and tokens, fitted to small runs, and what it says of a large one.

Two forms. Where the runs differ in tokens for each parameter, L(N, D) = E + A / N^alpha + B / D^beta, the third approach of
Hoffmann et al. (2022, arXiv:2203.15556). Where they do not, N and D say the same, and L(C) = E + A / C^alpha. As there, the
Huber loss (delta 0.001) of the logarithm of the loss is least; many starts, each by Levenberg and Marquardt's method.

The interval is of a run's loss, not of the law's mean. Losses are drawn around the law with the spread of the residuals, the law is
fitted to them again, and one more residual is added. That the spread itself is known from few runs only is drawn too (a
chi-squared of as many degrees of freedom as there are runs beyond constants), without which intervals of few runs are far
too narrow. It takes the form for granted: of what the form gets wrong further out, it knows nothing.

Pure arithmetic; reads no file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Form = Literal["parameters and tokens", "compute"]

DELTA = 1e-3
"""Residual of a logarithm from which on the Huber loss grows no faster than it."""
DRAWS = 400
LEVEL = 0.9
"""Part of the draws that the interval holds."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = 0.01, 3.0
MOST_ITERATIONS = 150
CONVERGED = 1e-6
"""Part of its Huber loss by which a step lowers a fit that has not converged."""
MOST_DAMPING = 1e3
TINY = 1e-30
CONSTANTS: dict[Form, int] = {"parameters and tokens": 5, "compute": 3}
FEWEST_RUNS = {form: constants + 1 for form, constants in CONSTANTS.items()}
"""Runs that a form needs: one more than it has constants."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a law knows of a run."""

    parameters: float
    """Weights of the layers' matrices."""
    tokens: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class Law:
    """A fitted law: least loss, and for each variable a factor and an exponent."""

    form: Form
    least_loss: float
    """E, in nats."""
    factors: tuple[float, ...]
    """A and B."""
    exponents: tuple[float, ...]

    def loss(self, size: Size) -> float:
        """Return the loss that the law says, in nats."""
        terms = zip(self.factors, self.exponents, _variables(self.form, [size])[0], strict=True)
        return self.least_loss + sum(factor * math.exp(-exponent * value) for factor, exponent, value in terms)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a law says of one run."""

    law: Law
    loss: float
    low: float
    """The interval in which LEVEL of all draws lie."""
    high: float
    spread: float
    """Of the residuals: their standard deviation, as a part of the loss."""


def fit(form: Form, sizes: Sequence[Size], losses: Sequence[float]) -> Law:
    """Return the law that fits these runs best. Args: at least FEWEST_RUNS of them; losses above 0."""
    variables, centre = _centred(form, sizes)
    return _law(form, _best(variables, np.log(losses)), centre)


def predict(form: Form, sizes: Sequence[Size], losses: Sequence[float], target: Size, *, seed: int = 0) -> Prediction:
    """Return what the law of these runs says of another, with its interval. Args: as of ``fit``; seed of the draws."""
    assert len(sizes) >= FEWEST_RUNS[form], "a spread needs more runs than constants"
    variables, centre = _centred(form, sizes)
    logs = np.log(losses)
    best = _best(variables, logs)
    mean = _log_loss(best[None], variables)[0]
    freedom = len(logs) - CONSTANTS[form]
    spread = math.sqrt(float(((logs - mean) ** 2).sum()) / freedom)
    random = np.random.default_rng(seed)
    spreads = spread * np.sqrt(freedom / random.chisquare(freedom, DRAWS))
    drawn = mean + spreads[:, None] * random.standard_normal((DRAWS, len(logs)))
    fitted, _ = _descend(np.repeat(best[None], DRAWS, 0), variables, drawn)
    there = _variables(form, [target]) - centre
    ends = _log_loss(fitted, there)[:, 0] + spreads * random.standard_normal(DRAWS)
    low, high = np.exp(np.quantile(ends, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    law = _law(form, best, centre)
    return Prediction(law=law, loss=law.loss(target), low=float(low), high=float(high), spread=spread)


def _variables(form: Form, sizes: Sequence[Size]) -> Numbers:
    """Return the logarithms of what a form goes by, [runs, variables]."""
    rows = [[one.parameters, one.tokens] if len(_exponents_of(form)) == 2 else [one.flops] for one in sizes]
    return np.log(np.array(rows, dtype=np.float64))


def _exponents_of(form: Form) -> range:
    return range((CONSTANTS[form] - 1) // 2)


def _centred(form: Form, sizes: Sequence[Size]) -> tuple[Numbers, Numbers]:
    """Return the variables around their mean, so that factors and exponents are told apart well, and that mean."""
    variables = _variables(form, sizes)
    return variables - variables.mean(0), variables.mean(0)


def _law(form: Form, constants: Numbers, centre: Numbers) -> Law:
    exponents = [math.exp(constants[2 + 2 * k]) for k in _exponents_of(form)]
    factors = [math.exp(constants[1 + 2 * k] + exponents[k] * centre[k]) for k in _exponents_of(form)]
    return Law(form=form, least_loss=math.exp(constants[0]), factors=tuple(factors), exponents=tuple(exponents))


def _terms(constants: Numbers, variables: Numbers) -> Numbers:
    """Return the terms of the loss, [fits, runs, 1 + variables]. Args: [fits, constants], [runs, variables]."""
    terms = np.empty((len(constants), *variables.shape[:1], variables.shape[1] + 1))
    terms[..., :1] = constants[:, None, :1]
    terms[..., 1:] = constants[:, None, 1::2] - np.exp(constants[:, None, 2::2]) * variables
    return np.exp(terms)


def _log_loss(constants: Numbers, variables: Numbers) -> Numbers:
    """Return the logarithm of the loss, [fits, runs]."""
    return np.log(_terms(constants, variables).sum(2))


def _best(variables: Numbers, logs: Numbers) -> Numbers:
    """Return the constants with the least Huber loss of all starts."""
    least = float(logs.min())
    shares, exponents = (0.3, 0.6, 0.9), (0.05, 0.15, 0.3, 0.6, 1.2)
    num = variables.shape[1]
    starts = [
        [
            least + math.log(share),
            *(part for p in powers for part in (least + math.log((1.05 - share) / num), math.log(p))),
        ]
        for share in shares
        for powers in (np.stack(np.meshgrid(*[exponents] * num), -1).reshape(-1, num))
    ]
    fitted, values = _descend(np.array(starts), variables, np.repeat(logs[None], len(starts), 0))
    return fitted[int(values.argmin())]


def _descend(constants: Numbers, variables: Numbers, logs: Numbers) -> tuple[Numbers, Numbers]:
    """Return the constants of every fit where its Huber loss is least, and that loss. Args: logs: [fits, runs]."""
    constants, values = constants.copy(), _huber(_log_loss(constants, variables) - logs)
    damping = np.full(len(constants), 1e-3)
    going = np.arange(len(constants))
    """Fits that have not converged."""
    for _ in range(MOST_ITERATIONS):
        moved = _bounded(constants[going] - _steps(constants[going], variables, logs[going], damping[going]))
        found, before = _huber(_log_loss(moved, variables) - logs[going]), values[going]
        better = found < before
        constants[going[better]], values[going[better]] = moved[better], found[better]
        damping[going] = np.clip(damping[going] * np.where(better, 0.2, 4), 1e-12, None)
        stays = np.where(better, before - found > CONVERGED * before, damping[going] < MOST_DAMPING)
        going = going[stays]
        if not len(going):
            break
    return constants, values


def _steps(constants: Numbers, variables: Numbers, logs: Numbers, damping: Numbers) -> Numbers:
    """Return a damped step down of every fit, no constant by more than 1; the Huber loss as a least square with weights."""
    terms = _terms(constants, variables)
    total = terms.sum(2)
    slopes = np.empty((*total.shape, constants.shape[1]))
    slopes[..., 0] = terms[..., 0]
    slopes[..., 1::2] = terms[..., 1:]
    slopes[..., 2::2] = -terms[..., 1:] * np.exp(constants[:, None, 2::2]) * variables
    slopes /= total[..., None]
    residuals = np.log(total) - logs
    weighted = (slopes * (DELTA / np.maximum(DELTA, np.abs(residuals)))[..., None]).swapaxes(1, 2)
    curvature = weighted @ slopes
    size = np.einsum("fii->fi", curvature).max(1) + TINY
    damped = curvature + (damping * size)[:, None, None] * np.eye(constants.shape[1])
    return np.clip(np.linalg.solve(damped, weighted @ residuals[..., None])[..., 0], -1, 1)


def _bounded(constants: Numbers) -> Numbers:
    """Return the constants with exponents that a law may have."""
    bounded = constants.copy()
    bounded[:, 2::2] = np.clip(bounded[:, 2::2], math.log(SMALLEST_EXPONENT), math.log(LARGEST_EXPONENT))
    return bounded


def _huber(residuals: Numbers) -> Numbers:
    """Return the Huber loss of every fit, [fits]."""
    size = np.abs(residuals)
    return np.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum(1)
