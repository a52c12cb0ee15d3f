"""The whole run of a plan as a person reads it, in 100 columns, and as a program does."""

import dataclasses
import textwrap
from typing import Any

from pretrain.data.passes import most_read, passes_text
from pretrain.plan.energy import Boundary
from pretrain.plan.search import layout_name
from pretrain.plan.whole_run import DiskFit, WholeRun

WIDTH, NAME = 100, 14
"""Columns of the page, and of the names of its rows."""
MOST_SOURCES = 8
"""Sources that have a row; of more, those that are read most often."""
MOST_BATCHES = 6
"""Batches that have a row; of more, those that cost most."""
SLOW = 0.99
"""Speed of a batch below which it is said to cost speed."""

Row = tuple[str, str]


def whole_run_lines(whole: WholeRun) -> list[str]:
    """Return the lines of the whole run."""
    layout = "the config's own layout" if whole.is_own else "layout 1"
    rows = [
        *_time_rows(whole),
        *_checkpoint_rows(whole),
        *_source_rows(whole),
        *_batch_rows(whole),
        *_energy_rows(whole),
    ]
    said = [f"the whole run in {layout}, {layout_name(whole.estimate.run, whole.estimate.num_gpus)}:"]
    for name, text in rows:
        said += _wrapped(f"  {name:<{NAME}} ", text)
    for warning in whole.warnings:
        said += _wrapped("", warning)
    return said


def whole_run_tree(whole: WholeRun) -> dict[str, Any]:
    """Return the whole run as JSON takes it."""
    jobs = whole.jobs
    return {
        "layout": layout_name(whole.estimate.run, whole.estimate.num_gpus),
        "own": whole.is_own,
        "steps": whole.steps,
        "tokens": whole.tokens,
        "training_s": whole.training_s,
        "validation_s": whole.validation_s,
        "waiting_for_checkpoints_s": whole.waiting_s,
        "elapsed_s": whole.elapsed_s,
        "gpu_hours": whole.gpu_hours,
        "slot": None if whole.slot is None else dataclasses.asdict(whole.slot),
        "jobs": None if jobs is None else dataclasses.asdict(jobs),
        "slot_name": whole.slot_name,
        "no_jobs": whole.no_jobs,
        "failures_per_1000_gpu_hours": dataclasses.asdict(whole.failures_per_1000_gpu_hours),
        "checkpoints": dataclasses.asdict(whole.checkpoints),
        "disks": [dataclasses.asdict(fit) for fit in whole.disks],
        "no_disks": whole.no_disks,
        "batches": [dataclasses.asdict(batch) for batch in whole.batches],
        "sources": [dataclasses.asdict(source) for source in whole.sources],
        "no_sources": whole.no_sources,
        "energy": [dataclasses.asdict(boundary) for boundary in whole.boundaries],
        "warnings": list(whole.warnings),
    }


def _time_rows(whole: WholeRun) -> list[Row]:
    num_gpus, jobs = whole.estimate.num_gpus, whole.jobs
    rate = whole.failures_per_1000_gpu_hours
    rows = [("tokens", f"{whole.tokens:,} in {whole.steps:,} steps")]
    parts = [f"{_hours(whole.training_s, num_gpus)} GPU hours of steps"]
    if whole.validation_s:
        parts.append(f"{_hours(whole.validation_s, num_gpus)} of validations")
    if whole.waiting_s:
        parts.append(f"{_hours(whole.waiting_s, num_gpus)} of waiting for checkpoints")
    rows.append(("training", ", ".join(parts)))
    if jobs is None or whole.slot is None:
        days = f"{whole.work_s / 86400:,.1f} if nothing stops it"
        return [
            *rows,
            ("days", f"{days}; starts, saves and failures are not counted"),
            ("jobs", f"- ({whole.no_jobs})"),
        ]
    slot = whole.slot
    rows += [
        (
            "jobs",
            f"{jobs.count:,} of up to {slot.length_s / 3600:g} h ({whole.slot_name}), "
            f"told to stop {slot.stop_margin_s:,.0f} s before the end; each "
            "start "
            + (
                f"{slot.start_s:,.0f} s"
                if slot.start_s
                else "- (start_up_s and preflight_s of the site not known, counted as 0)"
            ),
        ),
        (
            "failures",
            f"{jobs.failures:.2g} expected, at {rate.value:g} in 1,000 GPU hours ({rate.source}); lost: "
            f"{_hours(jobs.lost_s, num_gpus)} GPU hours",
        ),
        (
            "GPU hours",
            f"{_hours(jobs.elapsed_s, num_gpus)} in all, of which {_hours(jobs.starting_s, num_gpus)} are starts and "
            f"{_hours(jobs.saving_s, num_gpus)} last saves",
        ),
        ("days", f"{jobs.elapsed_s / 86400:,.1f}, without waits in the queue"),
    ]
    return rows


def _checkpoint_rows(whole: WholeRun) -> list[Row]:
    kept = whole.checkpoints
    rows = [
        (
            "checkpoints",
            f"{kept.most:,} at most at one time, of {size_text(kept.num_bytes)} and {kept.num_files:,} files each: "
            f"{size_text(kept.most * kept.num_bytes)} and {kept.most * kept.num_files:,} files",
        ),
    ]
    if not whole.disks:
        rows.append(("quota", f"- ({whole.no_disks})"))
    large_enough = [fit for fit in whole.disks if fit.disk.holds_run or fit.fits]
    rows += [(f"quota {fit.disk.name}", _quota_text(whole, fit)) for fit in large_enough or whole.disks]
    if kept.write_s is not None:
        rates = [fit.disk.write_gb_per_s for fit in whole.disks if fit.disk.write_gb_per_s is not None]
        source = f" ({rates[0].value:g} GB/s: {rates[0].source})" if rates else ""
        rows.append(("write time", f"at least {kept.write_s:,.2g} s{source}"))
    else:
        rows.append(
            ("write time", f"- ({'no --site' if whole.no_disks == 'no --site' else 'write_gb_per_s is not known'})")
        )
    return rows


def _quota_text(whole: WholeRun, fit: DiskFit) -> str:
    disk = fit.disk
    quota = "any size" if disk.quota_bytes is None else size_text(disk.quota_bytes)
    files = "any number of files" if disk.quota_files is None else f"{disk.quota_files:,} files"
    room = "fit" if not fit.advice else f"do not fit: room for {fit.fits:,} of {whole.checkpoints.most:,}; {fit.advice}"
    return f"{quota} and {files}, otherwise unused: the checkpoints {room}"


def _source_rows(whole: WholeRun) -> list[Row]:
    if not whole.sources:
        return [("passes", f"- ({whole.no_sources})")]
    total = sum(source.passes * source.train_tokens for source in whole.sources)
    rows = [
        (
            "passes" if not number else "",
            f"{passes_text(source.passes):>9} over {source.train_tokens:>17,} tokens, "
            f"{source.passes * source.train_tokens / total if total else 0:>6.1%} of what is read: {source.prefix}",
        )
        for number, source in enumerate(most_read(whole.sources, MOST_SOURCES))
    ]
    more = len(whole.sources) - len(rows)
    return rows + ([("", f"and {more:,} more sources, none read more often")] if more else [])


def _batch_rows(whole: WholeRun) -> list[Row]:
    slow = [batch for batch in whole.batches if batch.speed < SLOW]
    if not slow:
        return []
    lost = sum(batch.lost_gpu_hours for batch in slow)
    spent = sum(batch.gpu_hours for batch in whole.batches)
    shown = sorted(sorted(slow, key=lambda batch: -batch.lost_gpu_hours)[:MOST_BATCHES], key=whole.batches.index)
    rows = [
        ("small batches", f"cost {lost:,.0f} GPU hours more than at full speed, {lost / spent:.2%} of the steps' time")
    ]
    rows += [
        (
            "",
            f"{batch.global_batch_size:,} samples, {batch.steps:,} steps: {batch.step_s:.3f} s a step, {batch.speed:.0%} of full "
            f"speed, {batch.lost_gpu_hours:,.0f} GPU hours lost",
        )
        for batch in shown
    ]
    more = len(slow) - len(shown)
    return rows + ([("", f"and {more:,} more, which cost less each")] if more else [])


def _energy_rows(whole: WholeRun) -> list[Row]:
    return [("energy", f"{'of ' + one.name:<9} {_energy_text(one)}") for one in whole.boundaries]


def _energy_text(one: Boundary) -> str:
    if one.kwh is None:
        return f"- ({one.missing})"
    co2 = f"- kg CO2 ({one.missing})" if one.co2_kg is None else f"{one.co2_kg:,.0f} kg CO2 equivalent"
    return f"{one.kwh:,.0f} kWh, {co2}: {one.counts}"


def _hours(seconds: float, num_gpus: int) -> str:
    hours = seconds / 3600 * num_gpus
    return f"{hours:,.0f}" if hours >= 10 or not hours else f"{hours:.2g}"


def size_text(num_bytes: int) -> str:
    """Return a size for people, in units of 10^9 or 10^6 bytes."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"


def _wrapped(name: str, text: str) -> list[str]:
    indent = " " * (NAME + 3)
    return textwrap.wrap(
        text, WIDTH, initial_indent=name, subsequent_indent=indent if name else "  ", break_on_hyphens=False
    )
