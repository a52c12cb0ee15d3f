"""The jobs that a long run becomes: slots of the batch queue, what each start and end takes, and what failures lose.

A job trains until it is told to stop, saves and ends; or a failure ends it, and the next one resumes from the newest checkpoint
(launch/chain). Failures are those of a Poisson process. Jobs are alike, so that a run is a renewal process: its expected number of
jobs is its work divided by the expected progress of one. Pure arithmetic.
"""

import math
from dataclasses import dataclass

from fanal.errors import UserError

MOST_JOBS = 1_000_000
"""More of them are no plan: failures leave nothing of a job."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One job of the chain, in seconds."""

    length_s: float
    """Longest time of a job."""
    stop_margin_s: float
    """Time before its end at which it is told to stop."""
    start_s: float
    """From its start to its first step: preflight, start-up, reading the checkpoint."""
    save_s: float
    """Of the last checkpoint."""

    @property
    def training_s(self) -> float:
        """Seconds that a job trains if nothing fails."""
        return self.length_s - max(self.stop_margin_s, self.save_s) - self.start_s


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs of a run, as expected."""

    count: int
    elapsed_s: float
    """Time of all of them, without waits in the queue."""
    failures: float
    starting_s: float
    saving_s: float
    lost_s: float
    """Training that failures undo."""


def check_slot(slot: Slot, *, step_s: float, asked: str, longest_h: float | None) -> None:
    """Refuse a slot in which no step is done.

    Args: asked: what says its length, ``--slice-hours`` or a QoS; longest_h: the most that the site allows, None if it says none.
    Raises: UserError with a length that works.
    """
    if slot.training_s >= step_s:
        return
    margin = max(slot.stop_margin_s, slot.save_s)
    least = math.ceil((slot.start_s + margin + step_s) / 3600 * 100) / 100
    works = f"--slice-hours {least:g} works"
    if longest_h is not None and least > longest_h:
        works = f"a qos with max_hours: {least:g} in the site's file works"
    raise UserError(
        f"{asked} ({slot.length_s / 3600:g}) must be longer than a start ({slot.start_s:,.0f} s), the time kept for the last "
        f"checkpoint ({margin:,.0f} s) and one step ({step_s:,.1f} s); {works}"
    )


def jobs_of(work_s: float, slot: Slot, *, failures_per_s: float, interval_s: float | None) -> Jobs:
    """Return the jobs of so many seconds of training.

    Args: failures_per_s: of the whole run; interval_s: training between two checkpoints; None where only a job's end has one.
    Raises: UserError if failures leave nothing of a job.
    """
    longest = min(slot.training_s, work_s)
    progress = _progress(slot, longest, failures_per_s, interval_s)
    if progress * MOST_JOBS < work_s:
        raise UserError(
            f"with {failures_per_s * 3600:.3g} failures an hour a job of {slot.length_s / 3600:g} h is expected to save "
            f"{progress:.3g} s of training, and the run takes {work_s:.3g} s; --failures-per-1000-gpu-hours 0 works, and a "
            "smaller checkpoint.interval loses less"
        )
    ends = math.exp(-failures_per_s * (slot.start_s + longest))
    one = _elapsed(slot, longest, failures_per_s)
    whole = max(0, math.ceil(work_s / progress * (1 - 1e-12)) - 1)
    # The last job has what is left: as much time for each second that it saves, and a start and a save of its own.
    stretch = (one - slot.start_s - slot.save_s * ends) / progress
    last = slot.start_s + (work_s - whole * progress) * max(1.0, stretch) + slot.save_s
    elapsed = whole * one + last
    starting, saving = (whole + 1) * slot.start_s, (whole * ends + 1) * slot.save_s
    return Jobs(
        count=whole + 1, elapsed_s=elapsed, failures=failures_per_s * elapsed, starting_s=starting, saving_s=saving,
        lost_s=max(0.0, elapsed - work_s - starting - saving) if failures_per_s else 0.0,
    )  # fmt: skip


def _progress(slot: Slot, longest: float, rate: float, interval_s: float | None) -> float:
    """Return the training that a job is expected to save: at every checkpoint that it lives to see, and at its end."""
    ends = math.exp(-rate * (slot.start_s + longest))
    if not rate or interval_s is None or interval_s >= longest:
        return longest * ends
    count = math.ceil(longest / interval_s - 1e-9) - 1  # checkpoints before the end
    ratio = -math.expm1(-rate * interval_s)
    survive_the_first = math.exp(-rate * (slot.start_s + interval_s))
    saved = survive_the_first * (-math.expm1(-rate * interval_s * count) / ratio if ratio else count)
    return interval_s * saved + (longest - count * interval_s) * ends


def _elapsed(slot: Slot, longest: float, rate: float) -> float:
    """Return the time that a job is expected to take, its last save included where it comes to it."""
    whole = slot.start_s + longest
    until = -math.expm1(-rate * whole) / rate if rate else whole
    return until + slot.save_s * math.exp(-rate * whole)
