"""Restart of a run inside its allocation: how often, and whether the time that is left is enough.

A job whose ranks crashed or hung keeps its nodes and trains again from the newest checkpoint, in place of waiting in the queue.
The rule: until it is told to stop there must be time to start up and to train for one interval of checkpoints, both as measured
in this run.
"""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import FanalError
from fanal.fields import is_figure
from fanal.run_progress import newest_metrics
from pretrain.config.load import load_run

RESTARTS_INSIDE = "FANAL_RESTARTS_INSIDE"
"""Environment variable of a job: restarts inside its allocation before this try. Not there in the script of an older version, which
ends after one try."""
AGAIN = "again"
"""Word that ``launch job end`` prints to have its script start the next try."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Room for another try in the allocation."""

    left_s: float
    """Seconds until the run is told to stop; infinite where the job has no end."""
    start_up_s: float
    """Seconds from the begin of a try until it trains, the check of its nodes included."""
    interval_s: float
    """Seconds of training between two checkpoints; 0 where that is not known, or where none are written on the way."""

    @property
    def is_enough(self) -> bool:
        """Whether a try would come as far as its next checkpoint."""
        return self.left_s >= self.start_up_s + self.interval_s

    def __str__(self) -> str:
        left = "no limit" if math.isinf(self.left_s) else f"{max(0.0, self.left_s):,.0f} s"
        needed = f"{self.start_up_s:,.0f} s to start up and {self.interval_s:,.0f} s to the next checkpoint"
        return f"{left} until the job is told to stop, {needed}"


def restarts_inside() -> int | None:
    """Return the number of restarts inside this allocation so far; None if the job's script makes none."""
    said = os.environ.get(RESTARTS_INSIDE, "")
    return int(said) if said.isdecimal() else None


def room(run_dir: Path, config: Path, *, began_s: float, end_s: float | None, stop_margin_s: float) -> Room:
    """Return the room for another try.

    Args: began_s, when this try began; end_s, the end of the job, None without one: both in seconds since the epoch; stop_margin_s,
        seconds before its end at which the run is told to stop.
    """
    now_s = time.time()
    return Room(
        left_s=math.inf if end_s is None else end_s - stop_margin_s - now_s,
        start_up_s=_start_up_s(run_dir, began_s, now_s),
        interval_s=_interval_s(run_dir, config),
    )


def _start_up_s(run_dir: Path, began_s: float, now_s: float) -> float:
    """Return what this try took until it was ready to train; if it never was, all of its time."""
    newest = next(newest_metrics(run_dir, kinds=("start",)), {})
    ready_s = newest.get("time_unix_s")
    if ready_s is None or not is_figure(ready_s) or ready_s < began_s:
        return now_s - began_s
    return ready_s - began_s


def _interval_s(run_dir: Path, config: Path) -> float:
    newest = next(newest_metrics(run_dir, kinds=("step",)), {})
    try:
        interval = load_run(config).checkpoint.interval
    except (FanalError, OSError, ValueError):  # it was valid when the job started; a disk may fail
        return 0.0
    step_time_s = newest.get("step_time_s")
    if interval is None or step_time_s is None or not is_figure(step_time_s):
        return 0.0
    return interval * step_time_s
