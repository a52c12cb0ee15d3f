"""The summary of a run, in a few lines at its end."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fanal.run_folder import METRICS_FILE
from fanal.run_progress import newest_metrics
from fanal.running_median import RunningMedian
from fanal.shown import on_one_line
from pretrain.log.curve import Curves

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=+*#"
"""For a terminal whose encoding has no block characters."""
SPARKLINE_WIDTH = 40
Record = dict[str, Any]


def summary(run_dir: Path, *, bars: str = BARS) -> list[str]:
    """Lines for people, from a run's metrics file: losses first to last, their curves, pace, where things are.

    Reads it once, newest record first, and keeps none: neither do a million take more memory than a thousand.
    """
    found = _Read()
    for record in newest_metrics(run_dir):
        found.take(record)
    lines = []
    if found.steps is not None:
        first, last = found.steps
        lines.append(
            f"training loss   {figure(first['loss'])} (step {first['step']}) -> {figure(last['loss'])} (step {last['step']})"
        )
        for domain, values, before, after in found.curves.of_domains():
            lines.append(
                f"  {on_one_line(domain):13} {sparkline(values, bars=bars)}  {figure(before)} -> {figure(after)}"
            )
    if found.validations is not None:
        first, last = found.validations
        for domain in last["validation_loss"]:
            if domain in first["validation_loss"]:
                before, after = (figure(record["validation_loss"][domain]) for record in (first, last))
                lines.append(
                    f"validation loss   {before} (step {first['step']}) -> {after} (step {last['step']})  {on_one_line(domain)}"
                )
    if found.steps is not None:
        lines.append(
            f"pace            {found.rates.value():,.0f} tokens/s over all ranks (median), {duration(found.seconds())} of steps"
        )
    lines.append(f"run folder      {run_dir}  ({METRICS_FILE}, tensorboard/, checkpoints/, logs/)")
    return lines


class _Read:
    """What a summary is made of, from records that come newest first."""

    def __init__(self) -> None:
        self.steps: tuple[Record, Record] | None = None
        """First and last record of a step; also for the validations."""
        self.validations: tuple[Record, Record] | None = None
        self.curves, self.rates = Curves(), RunningMedian()
        self._trained_again_from = math.inf
        self._seconds = 0.0

    def take(self, record: Record) -> None:
        """Take in the record before those that came."""
        if record.get("kind") == "validation":
            self.validations = (record, self.validations[1] if self.validations else record)
        if record.get("kind") != "step":
            return
        if self.steps is not None:
            self._seconds += _seconds_between(record["step"], self.steps[0])
        self.steps = (record, self.steps[1] if self.steps else record)
        self.rates.add(record["tokens_per_second"])
        # A step that a resume has trained again counts once, as the last time.
        if record["step"] < self._trained_again_from:
            self._trained_again_from = record["step"]
            self.curves.add(record.get("loss_by_domain") or {})

    def seconds(self) -> float:
        """Return the seconds that all steps took, those that were lost included."""
        return self._seconds + (_seconds_between(0, self.steps[0]) if self.steps else 0.0)


def _seconds_between(step: int, record: Record) -> float:
    """Return the seconds of the steps after ``step`` that the next record tells of; 0 for the first one of a resume."""
    return max(0, record["step"] - step) * record["step_time_s"]


def sparkline(values: Sequence[float | None], *, width: int = SPARKLINE_WIDTH, bars: str = BARS) -> str:
    """A curve as one line of text: the lowest value gets the first of ``bars`` and the highest the last.

    More values than ``width`` are averaged in groups of nearly equal size. A group without a finite value is a space.
    """
    size = min(width, len(values))
    groups = [values[len(values) * at // size : len(values) * (at + 1) // size] for at in range(size)]
    finite = [[value for value in group if value is not None and math.isfinite(value)] for group in groups]
    means = [sum(group) / len(group) if group else None for group in finite]
    known = [mean for mean in means if mean is not None]
    lowest, spread = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    top = len(bars) - 1
    return "".join(
        " " if mean is None else bars[round(top * (mean - lowest) / spread) if spread else 0] for mean in means
    )


def bars_for(encoding: str | None) -> str:
    """The bars that a stream of this encoding can show."""
    try:
        BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_BARS
    return BARS


def duration(seconds: float) -> str:
    """Seconds as 1d02h, 3h04m, 5m06s or 7s."""
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def figure(loss: float | None) -> str:
    """Return a loss for people; null, which a record has for one that is not finite, in words."""
    return "not finite" if loss is None else f"{loss:.4f}"
