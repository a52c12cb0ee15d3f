"""Energy of Slurm jobs, from ``sacct``: what the cluster's own counters say, where an ``AcctGatherEnergyType`` is set up."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

LIMIT_S = 120
FORMAT = "JobID,ElapsedRaw,ConsumedEnergyRaw"
UNKNOWN_FROM = 2**63
"""Slurm writes 2**64 - 2 for what it does not know."""
NOT_OF_TASKS = ("batch", "extern", "interactive")
"""Steps of a job that measure nodes which its own steps measure too."""


@dataclass(frozen=True, kw_only=True)
class JobEnergy:
    """What the accounts say of one job, all of its starts after requeues together."""

    job: str
    elapsed_s: int
    joules: int | None
    """None where no energy was measured."""
    from_steps: bool
    """Whether it is the sum of the job's steps, where the job's own line has none."""


def jobs_energy(jobs: Sequence[str]) -> tuple[dict[str, JobEnergy], str | None]:
    """Return (the accounts of these jobs, as far as there are any, and why there are none, or None)."""
    if not jobs:
        return {}, "no start was a Slurm job"
    command = ("sacct", f"--jobs={','.join(jobs)}", "--duplicates", "--noheader", "--parsable2", f"--format={FORMAT}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SACCT_", "SLURM_TIME_"))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    except FileNotFoundError:
        return {}, "sacct is not on this machine"
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, f"sacct did not answer: {error}"
    if done.returncode:
        return {}, f"sacct failed ({done.returncode}): {' '.join((done.stderr or done.stdout).split())}"
    found = {job: account for job in jobs if (account := _account(job, done.stdout)) is not None}
    return found, None if found else "sacct has no account of these jobs"


def _account(job: str, text: str) -> JobEnergy | None:
    """Add up the lines of one job: its own, one for each time that it was started, and those of its steps."""
    elapsed_s, own, of_steps, is_known = 0, 0, 0, False
    for line in text.splitlines():
        name, elapsed, energy = [*line.split("|"), "", ""][:3]
        base, _, step = name.partition(".")
        if base != job:
            continue
        is_known = True
        joules = _joules(energy)
        if not step:
            elapsed_s += int(elapsed) if elapsed.isdigit() else 0
            own += joules
        elif step not in NOT_OF_TASKS:
            of_steps += joules
    if not is_known:
        return None
    return JobEnergy(job=job, elapsed_s=elapsed_s, joules=own or of_steps or None, from_steps=not own and of_steps > 0)


def _joules(text: str) -> int:
    """0 of nothing: a counter that reads 0 joules for a job was not there."""
    number = int(text) if text.isdigit() else 0
    return number if number < UNKNOWN_FROM else 0
