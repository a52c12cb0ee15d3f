"""STOP files that came while no rank was there to see them: while a chain waited in the queue, or as a job crashed."""

import sys
from pathlib import Path

from fanal.run_folder import REQUESTS, STOP
from launch.chain import jobs_file
from launch.chain.script import SCRIPT


def stop_came(folder: Path, run_dir: Path) -> bool:
    """Whether a STOP file lies there, which is then removed. Args: folder: the launch folder.

    One from before the last submission is not meant for this chain; the trainer removes it.
    """
    records = jobs_file.read_run(run_dir)
    submissions = [jobs_file.seconds(record["time_utc"]) for record in records if record["event"] == "submitted"]
    try:
        # A chain that was never submitted started with its script: sbatch may add a job to it at any time.
        since = submissions[-1] if submissions else (folder / SCRIPT).stat().st_mtime
    except FileNotFoundError:
        return False
    found = [_take_stop(place, since) for place in (run_dir, run_dir / REQUESTS)]
    return any(found)  # after both: each is removed


def _take_stop(folder: Path, since: float) -> bool:
    """Whether a STOP file lies in a folder that is younger than this; it is removed."""
    stop = folder / STOP
    try:
        if (folder.name == REQUESTS and folder.is_symlink()) or stop.lstat().st_mtime < since:
            return False
    except OSError:  # none, for most
        return False
    try:
        stop.unlink(missing_ok=True)
    except OSError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)  # of a colleague, in a folder that only he may clean
    return True
