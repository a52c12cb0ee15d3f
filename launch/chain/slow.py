"""Whether the steps of a run take longer than planned, or than they did before: a line beside the decision. It stops nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path

from fanal.run_progress import newest_metrics
from launch.chain.script import CONFIG
from launch.chain.step_times import StepTimes, step_times
from launch.planning.expected import Expected, expected_step
from launch.sites.schema import SiteConfig, SlowStepConfig
from pretrain.config.load import load_run


def slow_notice(folder: Path, run_dir: Path, site: SiteConfig, *, since_unix_s: float, site_name: str = "") -> str:
    """Return what makes the start that began then a slow one; empty if nothing does, or if nothing can be told.

    Args: folder: the launch folder; site_name: as the chain was submitted with it, for its calibration.
    Whatever fails here is printed: a chain goes on without it.
    """
    try:
        times = step_times(newest_metrics(run_dir, kinds=("step",)), since_unix_s=since_unix_s)
        if times is None:
            return ""
        expected = _expected(folder, site, times, site_name) if site.machine else None
        return "; ".join(slow_reasons(times, expected, site.slow_step))
    except Exception as error:
        print(f"warning: step times are not compared: {error}", file=sys.stderr, flush=True)
        return ""


def _expected(folder: Path, site: SiteConfig, times: StepTimes, site_name: str) -> Expected | None:
    run = load_run(folder / CONFIG)
    return expected_step(
        run, site, num_ranks=times.num_ranks, global_batch_size=times.global_batch_size, site_name=site_name
    )


def slow_reasons(times: StepTimes, expected: Expected | None, limits: SlowStepConfig) -> Iterator[str]:
    """Yield what is slower than a site tolerates, each with its figures."""
    took = f"a step takes {times.median_s:.3g} s (median of {times.num_records} records up to step {times.step:,})"
    if expected is not None and times.median_s > limits.than_plan * expected.step_time_s:
        yield (
            f"{took}, {times.median_s / expected.step_time_s:.2f} times the {expected.step_time_s:.3g} s planned for "
            f"{expected.machine} (slow_step.than_plan: {limits.than_plan:g})"
        )
    if times.before_s is not None and times.median_s > limits.than_before * times.before_s:
        yield (
            f"{took}, {times.median_s / times.before_s:.2f} times the {times.before_s:.3g} s of the {times.num_before:,} records "
            f"before (slow_step.than_before: {limits.than_before:g})"
        )
