"""What a run came to, in a few lines at its end."""

import json
from pathlib import Path


def summary(metrics: Path) -> list[str]:
    """Lines for people, from a run's metrics file: losses first to last, pace, where things are."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "eval"]
    lines = []
    if steps:
        first, last = steps[0], steps[-1]
        lines.append(f"training loss   {_loss(first)} (step {first['step']}) -> {_loss(last)} (step {last['step']})")
    for domain in evaluations[-1]["held_out_loss"] if evaluations else ():
        first, last = evaluations[0], evaluations[-1]
        before, after = first["held_out_loss"].get(domain), last["held_out_loss"][domain]
        if before is not None:
            lines.append(
                f"held-out loss   {before:.4f} (step {first['step']}) -> {after:.4f} (step {last['step']})  {domain}"
            )
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


def _loss(record: dict) -> str:
    return "not finite" if record["loss"] is None else f"{record['loss']:.4f}"
