"""Compare a run with the straight run: data order, losses and optimizer, each as a figure, its bound and the differences.

Pure but for reading the checkpoints' tensors: runs come in as ``Evidence``.
"""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest

import numpy as np

from fanal.run_folder import SHARDS, step_name
from pretrain.checkpoint.disk.manifest import FileEntry
from pretrain.inspect.bounds import Bounds
from pretrain.inspect.evidence import Evidence, Record

MOST_PROBLEMS = 3
"""Differences named per comparison; the rest is counted."""
BOOKKEEPING = ("consumed_samples", "consumed_tokens", "global_batch_size", "learning_rate", "skipped_steps")
"""Fields of a step's record that no layout may change by a bit."""


@dataclass(frozen=True, kw_only=True)
class PropertyComparison:
    """One property of a run against the straight run's."""

    what: str
    holds: bool | None
    """None: not applicable, and not counted as proof."""
    figure: str
    """Figure that was found, for the table."""
    deviation: float | None = None
    """The largest relative difference, where the comparison measures one."""
    bound: float | None = None
    """Largest difference allowed; None allows no difference in any bit."""
    problems: tuple[str, ...] = ()
    """Each names the step or file, both values and the bound."""


def compare(
    run: Evidence, straight: Evidence, *, steps: int, bounds: Bounds | None, first_step: int = 1
) -> list[PropertyComparison]:
    """Compare a run with the straight one, both of ``steps`` steps; without bounds they were the same layout, bit for bit.

    The optimizer is compared here in the same layout alone: in another one its files differ, and its tensors must be read.
    Args: first_step: the first one that the run had to train itself.
    """
    found = [
        data_order(run, straight, steps=steps, first_step=first_step),
        losses(run, straight, bounds=bounds),
        grad_norms(run, straight, bounds=bounds),
        validation_losses(run, straight, bounds=bounds, first_step=first_step),
    ]
    return found if bounds is not None else [*found, optimizer_bytes(run, straight)]


def data_order(run: Evidence, straight: Evidence, *, steps: int, first_step: int = 1) -> PropertyComparison:
    """Every step was logged with the straight run's counters, and the last checkpoint's data.json has its hash of all samples."""
    expected, trained = _by_step(straight), set(_by_step(run))
    problems = [f"step {step} was never logged" for step in sorted(set(range(first_step, steps + 1)) - trained)]
    problems += [f"step {step} was trained again: not resumed" for step in sorted(trained) if step < first_step]
    for record in run.steps:
        wanted = expected.get(record["step"])
        if wanted is None:
            problems.append(f"step {record['step']} is not a step of the straight run")
            continue
        for name in BOOKKEEPING:
            if record[name] != wanted[name]:
                problems.append(f"{name} of step {record['step']}: {record[name]}, straight {wanted[name]}")
    found, wanted = (None if side.position is None else asdict(side.position) for side in (run, straight))
    if found is None or wanted is None or run.checkpoint is None or run.checkpoint.name != step_name(steps):
        where = (run if found is None or wanted is not None else straight).run_dir
        problems.append(f"{where} has no checkpoint of step {steps} with a data position")
    else:
        for name in ("consumed_samples", "consumed_hash", "last_step", "sources", "phases", "seed", "seq_length"):
            if found[name] != wanted[name]:
                problems.append(f"{name} in data.json: {found[name]}, straight {wanted[name]}")
    return _comparison("data order", problems, equal="same hash")


def losses(run: Evidence, straight: Evidence, *, bounds: Bounds | None) -> PropertyComparison:
    """Every logged step's loss, and that of each domain in it."""
    pairs = []
    for record, wanted in _pairs(run, straight):
        pairs.append((f"loss of step {record['step']}", record["loss"], wanted["loss"]))
        pairs += _domains(f"of step {record['step']}", record["loss_by_domain"], wanted["loss_by_domain"])
    return _measured("loss", pairs, None if bounds is None else bounds.loss)


def grad_norms(run: Evidence, straight: Evidence, *, bounds: Bounds | None) -> PropertyComparison:
    """Every logged step's gradient norm, or the median of their deviations where the bounds say so."""
    pairs = [
        (f"gradient norm of step {record['step']}", record["grad_norm"], wanted["grad_norm"])
        for record, wanted in _pairs(run, straight)
    ]
    if bounds is None or not bounds.median_grad_norm or not pairs:
        return _measured("gradient norm", pairs, None if bounds is None else bounds.grad_norm)
    median = statistics.median(_deviation(found, wanted) for _, found, wanted in pairs)
    bad = not median <= bounds.grad_norm
    problem = f"gradient norm of the median step is {median:.2e} off, more than {bounds.grad_norm:.0e}"
    return PropertyComparison(
        what="gradient norm", holds=not bad, figure=_figure(median, bounds.grad_norm), deviation=median,
        bound=bounds.grad_norm, problems=(problem,) if bad else (),
    )  # fmt: skip


def validation_losses(
    run: Evidence, straight: Evidence, *, bounds: Bounds | None, first_step: int = 1
) -> PropertyComparison:
    """Every validation's loss by domain. A run from the first step on also has one before it."""
    since = first_step if first_step > 1 else 0
    expected = {record["step"]: record["validation_loss"] for record in straight.validations if record["step"] >= since}
    if not expected:
        return not_applicable("validation loss", why="none")
    pairs = []
    for step in sorted(expected.keys() - {record["step"] for record in run.validations}):
        pairs.append((f"validation loss after step {step}", None, next(iter(expected[step].values()), None)))
    for record in run.validations:
        step = record["step"]
        pairs += _domains(f"validation, after step {step}", record["validation_loss"], expected.get(step, {}))
    return _measured("validation loss", pairs, None if bounds is None else bounds.loss)


def optimizer_bytes(run: Evidence, straight: Evidence) -> PropertyComparison:
    """The files of the last checkpoint that hold model and optimizer have the same hash, and are what it says they are."""
    problems = []
    for side in (run, straight):
        if side.finding is None:
            problems.append(f"{side.run_dir} has no checkpoint")
        else:
            problems += side.finding.problems
    found, expected = _shards(run), _shards(straight)
    if not expected:
        problems.append(f"{straight.run_dir} has no files below {SHARDS}/ to compare")
    for path in sorted(found.keys() | expected.keys()):
        ours, theirs = found.get(path), expected.get(path)
        if ours is None or theirs is None:
            problems.append(f"{path} is only in the {'straight' if ours is None else 'resumed'} run's checkpoint")
        elif (ours.hash, ours.bytes) != (theirs.hash, theirs.bytes):
            problems.append(f"{path} has hash {ours.hash[:23]}..., straight {theirs.hash[:23]}...")
    return _comparison("optimizer", problems, equal=f"{len(expected)} files, equal bytes")


def optimizer_tensors(
    run: Iterable[tuple[str, np.ndarray]], straight: Iterable[tuple[str, np.ndarray]], *, bound: float
) -> PropertyComparison:
    """Whole tensors of two checkpoints, whatever their layouts: the largest ||difference|| / ||straight||.

    Args: both give the same names in the same order, one tensor at a time, so that memory holds two.
    """
    problems, worst = [], 0.0
    for ours, theirs in zip_longest(run, straight):
        names = [None if side is None else side[0] for side in (ours, theirs)]
        if ours is None or theirs is None or names[0] != names[1] or ours[1].shape != theirs[1].shape:
            problems.append(f"the checkpoints hold different tensors: {names[0]} where the straight run has {names[1]}")
            break
        deviation = tensor_deviation(ours[1], theirs[1])
        worst = max(worst, deviation)
        if not deviation <= bound:
            problems.append(f"{ours[0]} is {deviation:.2e} off, more than {bound:.0e}")
    return PropertyComparison(
        what="optimizer", holds=not problems, figure="DIFFERENT" if problems else _figure(worst, bound),
        deviation=worst, bound=bound, problems=_shortened(problems),
    )  # fmt: skip


def tensor_deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """||found - expected|| / ||expected||, and infinite where that is not a number or the expected one is zero alone."""
    left, right = (np.asarray(side, dtype=np.float64) for side in (found, expected))
    difference, norm = float(np.linalg.norm(left - right)), float(np.linalg.norm(right))
    if difference == 0:
        return 0.0
    ratio = difference / norm if norm else float("inf")
    return ratio if ratio == ratio else float("inf")


def not_applicable(what: str, why: str = "not applicable") -> PropertyComparison:
    """A comparison that says nothing here."""
    return PropertyComparison(what=what, holds=None, figure=why)


def _measured(
    what: str, pairs: list[tuple[str, float | None, float | None]], bound: float | None
) -> PropertyComparison:
    """(name, found, expected) each; without a bound they must be the same numbers."""
    problems, worst = [] if pairs else ["there is nothing to compare"], 0.0
    for name, found, expected in pairs:
        deviation = _deviation(found, expected)
        worst = max(worst, deviation)
        if found != expected and not (bound is not None and deviation <= bound):
            allowed = "not one bit may differ" if bound is None else f"more than {bound:.0e}"
            problems.append(f"{name}: {found} is {deviation:.2e} from {expected}, {allowed}")
    good = "equal, bit for bit" if bound is None else _figure(worst, bound)
    return PropertyComparison(
        what=what, holds=not problems, figure=good if not problems else f"DIFFERENT by {worst:.1e}", deviation=worst,
        bound=bound, problems=_shortened(problems),
    )  # fmt: skip


def _comparison(what: str, problems: list[str], *, equal: str) -> PropertyComparison:
    return PropertyComparison(
        what=what, holds=not problems, figure="DIFFERENT" if problems else equal, problems=_shortened(problems)
    )


def _deviation(found: float | None, expected: float | None) -> float:
    """Relative. A number that is not finite is logged as null, and equals another such one."""
    if found == expected:
        return 0.0
    if found is None or expected is None or expected == 0:
        return float("inf")
    return abs(found - expected) / abs(expected)


def _pairs(run: Evidence, straight: Evidence) -> Iterator[tuple[Record, Record]]:
    expected = _by_step(straight)
    for record in run.steps:
        if record["step"] in expected:  # data_order names the others
            yield record, expected[record["step"]]


def _by_step(run: Evidence) -> dict[int, Record]:
    return {record["step"]: record for record in run.steps}


def _domains(
    where: str, found: dict[str, float | None], expected: dict[str, float | None]
) -> list[tuple[str, float | None, float | None]]:
    names = sorted(found.keys() | expected.keys())
    return [(f"loss of {name} {where}", found.get(name), expected.get(name)) for name in names]


def _shards(run: Evidence) -> dict[str, FileEntry]:
    manifest = None if run.finding is None else run.finding.manifest
    files = () if manifest is None else manifest.files
    return {entry.path: entry for entry in files if entry.path.startswith(f"{SHARDS}/")}


def _figure(deviation: float, bound: float) -> str:
    return f"{deviation:.1e} of {bound:.0e}" if deviation <= bound else f"DIFFERENT by {deviation:.1e}"


def _shortened(problems: list[str]) -> tuple[str, ...]:
    more = len(problems) - MOST_PROBLEMS
    return (*problems[:MOST_PROBLEMS], f"and {more:,} more") if more > 0 else tuple(problems)
