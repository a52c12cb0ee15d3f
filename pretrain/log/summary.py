"""The summary of a run, in a few lines at its end."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fanal.run_folder import METRICS_FILE
from fanal.run_progress import metrics
from fanal.shown import on_one_line

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=+*#"
"""For a terminal whose encoding has no block characters."""
SPARKLINE_WIDTH = 40


def summary(run_dir: Path, *, bars: str = BARS) -> list[str]:
    """Lines for people, from a run's metrics file: losses first to last, their curves, pace, where things are."""
    records = list(metrics(run_dir))
    steps = [record for record in records if record.get("kind") == "step"]
    validations = [record for record in records if record.get("kind") == "validation"]
    lines = []
    if steps:
        first, last = steps[0], steps[-1]
        lines.append(
            f"training loss   {_figure(first['loss'])} (step {first['step']}) -> {_figure(last['loss'])} (step {last['step']})"
        )
        lines += _curves(steps, bars)
    for domain in validations[-1]["validation_loss"] if validations else ():
        first, last = validations[0], validations[-1]
        if domain in first["validation_loss"]:
            before, after = (_figure(record["validation_loss"][domain]) for record in (first, last))
            lines.append(
                f"validation loss   {before} (step {first['step']}) -> {after} (step {last['step']})  {on_one_line(domain)}"
            )
    if steps:
        seconds = sum(
            (record["step"] - before) * record["step_time_s"]
            for before, record in zip([0, *(record["step"] for record in steps)], steps, strict=False)
            if record["step"] > before
        )
        lines.append(
            f"pace            {median_pace(steps):,.0f} tokens/s over all ranks (median), {duration(seconds)} of steps"
        )
    lines.append(f"run folder      {run_dir}  ({METRICS_FILE}, tensorboard/, checkpoints/, logs/)")
    return lines


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


def _curves(steps: list[dict], bars: str) -> Iterator[str]:
    """The training loss of each domain as a sparkline. A step that was trained again after a resume counts once."""
    by_step = {record["step"]: record.get("loss_by_domain") or {} for record in steps}
    losses = [by_step[step] for step in sorted(by_step)]
    for domain in sorted({domain for record in losses for domain in record}):
        values = [record.get(domain) for record in losses]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            yield f"  {on_one_line(domain):13} {sparkline(values, bars=bars)}  {_figure(known[0])} -> {_figure(known[-1])}"


def duration(seconds: float) -> str:
    """Seconds as 1d02h, 3h04m, 5m06s or 7s."""
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def median_pace(steps: Sequence[dict[str, Any]]) -> float:
    """Tokens per second over all ranks, the median of step records; at least one."""
    rates = sorted(record["tokens_per_second"] for record in steps)
    return rates[len(rates) // 2]


def _figure(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"
