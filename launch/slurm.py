"""Slurm's commands, as few as we need. Each waits at most LIMIT_S, since a controller that is busy answers late."""

import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from fanal.errors import FanalError, PassingError, error_type
from fanal.exit_codes import CRASH, WRONG_INPUT

LIMIT_S = 120
LOST_STATES = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "UNKNOWN", "REBOOT", "POWERED_DOWN", "POWERING_DOWN")

EndedBy = Literal["itself", "cancelled", "requeued by Slurm", "time limit", "node failure"]
"""Causes of a job's end: its own script, a user (or a preemption that cancels), or Slurm."""


OVERRIDING = {
    "SBATCH_JOB_NAME", "SBATCH_TIMELIMIT", "SBATCH_SIGNAL", "SBATCH_NO_REQUEUE", "SBATCH_OPEN_MODE", "SBATCH_OUTPUT",
    "SBATCH_ARRAY_INX", "SLURM_RESTART_COUNT",
}  # fmt: skip
"""Variables that override the lines by which a chain holds together; account, partition and the like are the user's to set."""


class SlurmError(FanalError):
    """A command of Slurm's does not exist, or refused."""

    exit_code = WRONG_INPUT


class NoAnswerError(SlurmError, PassingError):
    """The controller is busy or down."""

    exit_code = CRASH


def ask(*command: str) -> str:
    """Run a command and return what it prints.

    Raises: SlurmError with what it said, if it does not exist, fails or does not answer.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=_environment())
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not on this machine: Slurm's commands are needed here") from None
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{' '.join(command)}: no answer in {LIMIT_S} s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise SlurmError(f"{' '.join(command)} failed ({done.returncode}): {said}")
    return done.stdout


def submit(script: Path, *options: str) -> str:
    """Queue a script; returns the job's number."""
    return ask("sbatch", "--parsable", *options, str(script)).strip().split(";")[0]


def submit_with(script: Path, *words: str, options: Sequence[str] = ()) -> str:
    """Queue a script that is given these words; returns the job's number."""
    return ask("sbatch", "--parsable", *options, str(script), *words).strip().split(";")[0]


def job_fields(job: str) -> dict[str, str]:
    """Return what ``scontrol show job`` knows of a job; empty if it is forgotten."""
    try:
        text = ask("scontrol", "show", "job", "--oneliner", job)
    except SlurmError:
        return {}
    return key_values(text)


def hostnames(nodelist: str) -> tuple[str, ...]:
    """Expand a list of nodes: n[1-3] -> n1, n2, n3."""
    return tuple(ask("scontrol", "show", "hostnames", nodelist).split()) if nodelist else ()


def allocated_nodes(job: str) -> tuple[str, ...]:
    """Return the nodes that a job has now: those that were lost are no longer among them where it outlives them."""
    return hostnames(
        key_values(ask("scontrol", "show", "job", "--oneliner", job)).get("NodeList", "").replace("(null)", "")
    )


def node_host(node: str) -> str:
    """Return the name of the host that a node is, by which others reach it; its own name where Slurm does not say."""
    return key_values(ask("scontrol", "show", "node", "--oneliner", node)).get("NodeHostName") or node


def queued_jobs(*names: str, arrays: bool = False) -> list[str]:
    """Return the numbers of this user's queued jobs of these names, each once, oldest first; of a task its array's, if
    ``arrays``."""
    number = "%F" if arrays else "%A"
    found = ask("squeue", "--noheader", "--me", f"--name={','.join(names)}", f"--format={number}").split()
    return sorted(set(found), key=int)


def waiting_jobs(name: str) -> list[str]:
    """Return the numbers of this user's jobs of this name that wait in the queue."""
    return sorted(
        ask("squeue", "--noheader", "--me", "--states=PENDING", f"--name={name}", "--format=%A").split(), key=int
    )


def lost_nodes(nodes: Sequence[str], since: datetime) -> tuple[str, ...]:
    """Return the nodes that Slurm counts as down or unwell, or whose daemon was restarted ``since`` then (local time)."""
    if not nodes:
        return ()
    try:  # all in one question: hundreds would take longer than Slurm lets a job live that it ends
        lines = ask("scontrol", "show", "node", "--oneliner", ",".join(nodes)).splitlines()
    except SlurmError:
        return ()  # nothing is known: not a reason to blame them
    known = {fields.get("NodeName", ""): fields for fields in map(key_values, lines)}
    return tuple(node for node in nodes if node in known and _is_lost(known[node], since))


def usable_nodes(partition: str, constraint: str) -> set[str]:
    """Return the nodes of a partition ("" for any) that have a feature ("" for any) and that jobs may get, now or later."""
    options = [f"--partition={partition}"] if partition else []
    lines = ask("sinfo", "--noheader", "--Node", *options, "--format=%N %T %f").split("\n")
    found = set()
    for node, state, features in (line.split(maxsplit=2) for line in lines if line.strip()):
        is_lost = any(bad in state.upper() for bad in LOST_STATES) or "*" in state
        # What is more than one word, such as a|b, is not judged here.
        fits = not constraint.isidentifier() or constraint in features.strip().split(",")
        if fits and not is_lost:
            found.add(node)
    return found


def nodes_of(partition: str) -> set[str]:
    """Return all nodes of a partition ("" for any), also those that are down."""
    options = [f"--partition={partition}"] if partition else []
    return set(ask("sinfo", "--noheader", "--Node", *options, "--format=%N").split())


def cancel(jobs: Sequence[str]) -> None:
    """Take jobs out of the queue."""
    if jobs:
        ask("scancel", *jobs)


@contextmanager
def taken_back_on_error() -> Iterator[list[str]]:
    """Cancel the jobs that the block adds to the list if it fails. Jobs that cannot be cancelled are named after its error.

    Raises: what the block raises; SlurmError in place of a UserError to which the names are added.
    """
    queued: list[str] = []
    try:
        yield queued
    except BaseException as error:
        try:
            cancel(queued)
        except BaseException:  # no answer, or a Ctrl-C of who does not wait for it: the first error says more
            listed, one = " ".join(queued), len(queued) == 1
            there = f"job {listed} is" if one else f"jobs {', '.join(queued)} are"
            left = f"{there} still in the queue; `scancel {listed}` ends {'it' if one else 'them'}"
            if isinstance(error, FanalError):
                raise error_type(error, SlurmError)(f"{error}; {left}") from error
            print(f"warning: {left}", file=sys.stderr, flush=True)  # Ctrl-C has no message to add it to
        raise


def requeue(job: str) -> None:
    """Put a running job back into the queue. Its processes are ended, this one among them."""
    ask("scontrol", "requeue", job)


def my_queue() -> dict[str, tuple[str, str]]:
    """Return the number of each of this user's jobs in the queue with its (state, name)."""
    lines = ask("squeue", "--noheader", "--me", "--format=%A %T %j").splitlines()
    words = (line.split(maxsplit=2) for line in lines)
    return {found[0]: (found[1], found[2]) for found in words if len(found) == 3}


def excluded_in(fields: dict[str, str]) -> set[str]:
    """Return the nodes that a job is kept off, by whomever. Args: fields: what ``job_fields`` said."""
    nodes = fields.get("ExcNodeList", "(null)")
    return set() if nodes == "(null)" else set(hostnames(nodes))


def set_excluded(job: str, nodes: Collection[str]) -> None:
    """Keep a waiting job off these nodes and no others: Slurm replaces the list."""
    ask("scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(sorted(nodes))}")


def start_now(job: str) -> None:
    """Take from a waiting job the time before which it must not start."""
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def why_ending(job: str, restart: int) -> EndedBy:
    """Return what ends the job whose script asks: itself, as long as Slurm counts it as running.

    Afterwards its state says COMPLETING whatever the cause, so the reason and the number of restarts tell (measured with 22.05).
    """
    fields = job_fields(job)
    if int(fields.get("Restarts", "0")) > restart:
        return "requeued by Slurm"
    if fields.get("JobState", "RUNNING") == "RUNNING":
        return "itself"
    by_reason: dict[str, EndedBy] = {"TimeLimit": "time limit", "NodeDown": "node failure"}
    return by_reason.get(fields.get("Reason", ""), "cancelled")


def end_s(job: str) -> float | None:
    """Return when Slurm will end a running job, in seconds since the epoch; None if it has no end, or if Slurm does not say."""
    try:
        return datetime.fromisoformat(job_fields(job).get("EndTime", "")).timestamp()
    except ValueError:
        return None


def why_ended(job: str) -> EndedBy:
    """Return why a job that is over has ended, as far as Slurm remembers it: minutes (MinJobAge), or forever where it
    keeps accounts."""
    state = job_fields(job).get("JobState", "") or _accounted_state(job)
    by_state: dict[str, EndedBy] = {"CANCELLED": "cancelled", "TIMEOUT": "time limit", "NODE_FAIL": "node failure"}
    return by_state.get(state, "itself")


def _accounted_state(job: str) -> str:
    """Return the state that sacct prints, such as CANCELLED with the user's number; empty where no accounts are kept."""
    try:
        lines = ask("sacct", f"--jobs={job}", "--allocations", "--noheader", "--parsable2", "--format=State")
    except SlurmError:
        return ""
    return next(iter(lines.split()), "")


def this_job() -> tuple[str, int]:
    """Return (number of the job this process belongs to, how often it was started before).

    Raises: SlurmError outside a job.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise SlurmError("SLURM_JOB_ID is not set: this command works inside a Slurm job only; sbatch job.sbatch works")
    return job, int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _environment() -> dict[str, str]:
    """Return the environment without what would change the meaning of a command: filters, other forms of a
    time, OVERRIDING. A job that is queued from a job would inherit its number of restarts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SQUEUE_", "SINFO_", "SCANCEL_", "SACCT_")) and name not in OVERRIDING
    }
    return {**kept, "SLURM_TIME_FORMAT": "standard"}


def _is_lost(fields: dict[str, str], since: datetime) -> bool:
    state = fields.get("State", "")
    if any(bad in state for bad in LOST_STATES) or "*" in state:
        return True
    started = fields.get("SlurmdStartTime", "")
    try:
        return datetime.fromisoformat(started) > since
    except ValueError:
        return False


def key_values(text: str) -> dict[str, str]:
    """Return the KEY=VALUE pairs of a line; values may hold spaces."""
    return {key: value.strip() for key, value in re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", text.strip())}
