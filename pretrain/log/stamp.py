"""What every line of a run's logs says beside its record: which start wrote it, when, and whether its step was trained again."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.run_progress import newest_metrics


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a start writes into its lines.

    Wall clocks are set back now and then, and differ from host to host. So durations are taken from ``elapsed_s``, which never goes
    back within a start, and the order of lines is that of the file.
    """

    start: int
    """Number of the start (start_file.py)."""
    began_s: float
    """When its command began, on the clock of ``time.monotonic``."""
    start_step: int
    """Step after which it goes on."""
    logged_step: int
    """Last step that an earlier start has logged: up to it this start trains again."""

    def fields(self, *, step: int | None) -> dict[str, Any]:
        """Return the fields of a line. Args: step: the trained step that it is about; None of any other line."""
        when = {
            "start": self.start,
            "time_unix_s": round(time.time(), 3),
            "elapsed_s": round(time.monotonic() - self.began_s, 3),
        }
        is_replay = step is not None and self.start_step < step <= self.logged_step
        return {**when, "replay": True} if is_replay else when


def last_logged_step(run_dir: Path) -> int:
    """Return the last step that any start has logged; 0 if there is none.

    Reads the log from its end: up to the first step that was not trained again, which is later than all before it. In a log of an
    earlier version, whose lines do not say that, up to its beginning.
    """
    last = 0
    for record in newest_metrics(run_dir, kinds=("step",)):
        step = record.get("step")
        last = max(last, step if type(step) is int else 0)
        if "start" in record and not record.get("replay"):
            break
    return last
