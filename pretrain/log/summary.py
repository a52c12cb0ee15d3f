"""The summary of a run, in a few lines at its end."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path


def summary(metrics: Path) -> list[str]:
    """Lines for people, from a run's metrics file: losses first to last, pace, where things are."""
    records = list(_records(metrics))
    steps = [record for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "eval"]
    lines = []
    if steps:
        first, last = steps[0], steps[-1]
        lines.append(
            f"training loss   {_figure(first['loss'])} (step {first['step']}) -> {_figure(last['loss'])} (step {last['step']})"
        )
    for domain in evaluations[-1]["held_out_loss"] if evaluations else ():
        first, last = evaluations[0], evaluations[-1]
        if domain in first["held_out_loss"]:
            before, after = (_figure(record["held_out_loss"][domain]) for record in (first, last))
            lines.append(f"held-out loss   {before} (step {first['step']}) -> {after} (step {last['step']})  {domain}")
    if steps:
        rates = sorted(record["tokens_per_second"] for record in steps)
        seconds = sum(
            (record["step"] - before) * record["step_time_s"]
            for before, record in zip([0, *(record["step"] for record in steps)], steps, strict=False)
            if record["step"] > before
        )
        lines.append(
            f"pace            {rates[len(rates) // 2]:,.0f} tokens/s over all ranks (median), {duration(seconds)} of steps"
        )
    lines.append(f"run folder      {metrics.parent}  (metrics.jsonl, tensorboard/, checkpoints/, logs/)")
    return lines


def duration(seconds: float) -> str:
    """Seconds as 1d02h, 3h04m, 5m06s or 7s."""
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _records(metrics: Path) -> Iterator[dict]:
    """The whole lines: a run that was killed may leave a torn one, which must not fail a later run's end."""
    for line in metrics.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def _figure(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"
