"""Jobs of a run: those in Slurm's queue, those that its own lines tell of, and the state of the run that follows from both."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from fanal.run_folder import JOB
from launch import slurm
from launch.chain import jobs_file
from launch.chain.node_list import DEFAULT_HOURS, utc_now
from launch.chain.request import launch_dir
from launch.status.progress import Timeline

QUEUE_FIELDS = ("job", "state", "reason", "start_local", "time_left", "nodes", "excluded_nodes")
QUEUE_FORMAT = "%A|%T|%r|%S|%L|%N|%x"
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED")


Answer = tuple[list[dict[str, str]] | None, str | None]
Queue = Callable[[Path, dict[str, Any] | None], Answer]
"""Way to ask for the jobs of a run, as ``queue_of``."""


def queue_of(run_dir: Path, facts: dict[str, Any] | None) -> Answer:
    """Return (the jobs in the queue of this run's owner, None); or (None, why that is unknown). Without jobs of ours Slurm is not
    asked, and whoever else gives a job their name is not meant."""
    if facts is None:
        return None, None
    try:
        owner = f"--user={_owner(run_dir)}"
        text = slurm.ask("squeue", "--noheader", owner, f"--name={facts['name']}", f"--format={QUEUE_FORMAT}")
    except (slurm.SlurmError, ValueError, OSError) as error:  # ValueError: of a name that no command can take
        return None, str(error)
    return [dict(zip(QUEUE_FIELDS, row, strict=False)) for row in _rows(text)], None


def ask_once(runs: Mapping[Path, dict[str, Any]]) -> Queue:
    """Ask Slurm for the jobs of all these runs at once, and return what answers for each as ``queue_of`` does.

    Args: runs: by run folder, its facts. A controller that is down keeps many runs waiting once, and not each of them.
    """
    problem, jobs = None, dict[tuple[str, str], list[dict[str, str]]]()
    if runs:
        try:
            owners = ",".join(sorted({str(_owner(run)) for run in runs}))
            names = ",".join(sorted({facts["name"] for facts in runs.values()}))
            form = f"{QUEUE_FORMAT}|%U|%j"
            text = slurm.ask("squeue", "--noheader", f"--user={owners}", f"--name={names}", f"--format={form}")
            for *row, owner, name in _rows(text):
                jobs.setdefault((owner, name), []).append(dict(zip(QUEUE_FIELDS, row, strict=False)))
        except (slurm.SlurmError, ValueError, OSError) as error:
            problem = str(error)

    def answer(run_dir: Path, facts: dict[str, Any] | None) -> Answer:
        if facts is None or problem is not None:
            return None, None if facts is None else problem
        return jobs.get((str(_owner(run_dir)), facts["name"]), []), None

    return answer


def _owner(run_dir: Path) -> int:
    return (launch_dir(run_dir) / JOB).stat().st_uid


def _rows(text: str) -> list[list[str]]:
    return [line.strip().split("|") for line in text.splitlines() if line.strip()]


def state_of(
    records: list[dict[str, Any]],
    attempts: list[jobs_file.Attempt],
    queue: list[dict[str, str]] | None,
    line: Timeline,
    *,
    complete: bool,
) -> str:
    current = jobs_file.since_submission(records)
    decided = [record for record in current if record["event"] == "decided"]
    open_attempt = bool(attempts) and attempts[-1].decision is None
    waiting = [job for job in queue or () if job["state"] in WAITING]
    # A job that has decided takes a while to leave the queue.
    if any(job["state"] != "COMPLETING" or open_attempt for job in queue or () if job not in waiting):
        return "running"
    if complete and line.end is not None and line.end.get("outcome") == "finished":
        return "finished"
    if waiting:
        return "waiting"
    if not open_attempt and decided and decided[-1]["action"] == "finish" and not complete:
        return "unknown" if line.end is None else "stopped"  # made longer since, by hand
    if not open_attempt and decided and decided[-1]["action"] in ("finish", "stop"):
        return {"finish": "finished", "stop": "stopped"}[decided[-1]["action"]]
    if current:
        if queue is not None:
            return "gone"
        return "running" if open_attempt else "waiting"
    if line.end is not None:
        return "stopped"
    return "unknown" if line.steps or line.validations else "not started"


def jobs_of(
    records: list[dict[str, Any]], attempts: list[jobs_file.Attempt], queue: list[dict[str, str]] | None
) -> dict[str, Any]:
    submitted = [record for record in records if record["event"] == "submitted"]
    decided = [record for record in jobs_file.since_submission(records) if record["event"] == "decided"]
    excluded = list(jobs_file.excluded(records, since=utc_now() - timedelta(hours=DEFAULT_HOURS)))
    for job in queue or ():
        try:
            excluded.extend(slurm.hostnames(job.get("excluded_nodes", "").replace("(null)", "")))
        except slurm.SlurmError:
            continue
    return {
        "submitted": submitted,
        "attempts": [
            {
                **{key: value for key, value in asdict(attempt).items() if key != "time_utc"},
                "start_utc": attempt.time_utc,
            }
            for attempt in attempts
        ],
        "last_decision": decided[-1] if decided else None,
        "excluded_nodes": list(dict.fromkeys(excluded)),
        "jobs_running": None if queue is None else [job for job in queue if job["state"] not in WAITING],
        "jobs_waiting": None if queue is None else [job for job in queue if job["state"] in WAITING],
    }
