"""A run beside its plan: the same figures planned and real, and where the log shows that time goes which the plan does not have."""

import statistics
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.run_progress import newest_metrics
from launch.chain.request import launch_dir
from launch.chain.script import SITE
from launch.chain.step_times import StepTimes, step_times
from launch.planning.expected import Expected, expected_step
from launch.sites.schema import SiteConfig, SlowStepConfig
from launch.sites.site import read_site
from launch.status.progress import Timeline
from launch.status.unreadable import UNREADABLE
from pretrain.config.schema import RunConfig

MIN_SHARE = 0.01
"""Share of a run's time below which a pause is not worth a line."""


def against_plan(
    run_dir: Path, run: RunConfig | None, line: Timeline, *, site_name: str = ""
) -> tuple[dict[str, Any] | None, str | None]:
    """Return (what was planned beside what is, why there is no plan), units in the keys.

    Args: site_name: as the chain was submitted with it, for its calibration.
    Both are None for a run whose site names no machine, or whose newest start has too few records.
    """
    try:
        site = read_site(launch_dir(run_dir) / SITE)
    except UNREADABLE:
        return None, None  # of a run by hand, or of another version
    if not site.machine or run is None:
        return None, None
    times = step_times(newest_metrics(run_dir, kinds=("step",)))
    if times is None:
        return None, None
    try:
        expected = expected_step(
            run, site, num_ranks=times.num_ranks, global_batch_size=times.global_batch_size, site_name=site_name
        )
    except UserError as error:
        return None, str(error)
    return None if expected is None else compared(run, site, times, expected, line), None


def compared(run: RunConfig, site: SiteConfig, times: StepTimes, expected: Expected, line: Timeline) -> dict[str, Any]:
    """Return the figures of a plan beside those of the log."""
    times_as_long = times.median_s / expected.step_time_s
    return {
        **asdict(expected),
        "real_step_time_s": times.median_s,
        "real_fastest_step_time_s": times.fastest_s,
        "real_step_time_before_s": times.before_s,
        "real_data_wait_s": times.data_wait_s,
        "real_tokens_per_second_per_gpu": expected.tokens_per_second_per_gpu / times_as_long,
        "real_mfu_full": expected.mfu_full / times_as_long,
        "real_mfu_causal": expected.mfu_causal / times_as_long,
        "real_validation_time_s": _median([record["validation_time_s"] for record in line.validations]),
        "real_save_stall_s": _median([r["stall_s"] for r in line.saves if r.get("failure") is None]),
        "times_as_long": times_as_long,
        "is_slower": times_as_long > site.slow_step.than_plan,
        "slower_parts": list(slower_parts(run, site.slow_step, times, expected, line)),
    }  # fmt: skip


def slower_parts(
    run: RunConfig, limits: SlowStepConfig, times: StepTimes, expected: Expected, line: Timeline
) -> Iterator[str]:
    """Yield what takes longer than planned, and which part of it the log shows: it times a step as a whole, and what pauses it."""
    if times.median_s > limits.than_plan * expected.step_time_s:
        yield _whose_steps(limits, times, expected)
        share = times.data_wait_s / times.median_s
        if share > MIN_SHARE:
            yield f"a rank waits {times.data_wait_s:.3g} s of a step for its data, {share:.1%} of it"
    if times.before_s is not None and times.median_s > limits.than_before * times.before_s:
        yield (
            f"steps take {times.median_s / times.before_s:.2f} times as long as before: {times.before_s:.3g} s was the median of "
            f"the {times.num_before:,} records until then"
        )
    yield from _pauses(run, limits, times, expected, line)


def _whose_steps(limits: SlowStepConfig, times: StepTimes, expected: Expected) -> str:
    tenth = f"a tenth of the records has {times.fastest_s:.3g} s or less"
    if times.fastest_s <= limits.than_plan * expected.step_time_s:
        return f"some steps are slow: {tenth}, and the rest wait for something now and then (data, a network, a node)"
    return (
        f"every step is slow: {tenth}. The log does not split a step; `log.profile_from_step` at the next start traces one, to be "
        "held beside the planned parts"
    )


def _pauses(
    run: RunConfig, limits: SlowStepConfig, times: StepTimes, expected: Expected, line: Timeline
) -> Iterator[str]:
    """Yield the validations and saves that stop the training for longer than planned, of some share of the time."""
    took = _median([record["validation_time_s"] for record in line.validations])
    every = run.train.validation_interval
    if took is not None and every and took > limits.than_plan * expected.validation_time_s:
        share = took / (took + every * times.median_s)
        if share > MIN_SHARE:
            yield f"a validation takes {took:.3g} s for {expected.validation_time_s:.3g} s planned, {share:.1%} of the time"
    stall, every = _median([r["stall_s"] for r in line.saves if r.get("failure") is None]), run.checkpoint.interval
    if stall is not None and every and stall / (stall + every * times.median_s) > MIN_SHARE:
        share = stall / (stall + every * times.median_s)
        planned = (
            "none of it is planned" if run.checkpoint.asynchronous else "checkpoint.asynchronous: true saves beside it"
        )
        yield f"a save stops the training for {stall:.3g} s, {share:.1%} of the time; {planned}"


def _median(values: list[float]) -> float | None:
    return float(statistics.median(values)) if values else None
