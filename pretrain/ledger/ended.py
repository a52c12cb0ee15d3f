"""What a job's own record says of how a start ended: the decision that its chain of jobs took afterwards."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fanal.fields import Rule, fit, is_count, is_text, or_null
from fanal.json_lines import read_lines
from fanal.ownership import why_not_own
from fanal.run_folder import JOBS_FILE, LAUNCH_DIR
from pretrain.ledger.starts import Attempt

RULES: dict[str, dict[str, Rule]] = {
    "started": {"job": is_text, "restart": is_count, "inside": or_null(is_count)},
    "decided": {
        "job": is_text, "restart": is_count, "inside": or_null(is_count), "action": is_text, "reason": is_text,
    },
}  # fmt: skip
Decisions = dict[int, str]
"""By the id of an attempt: the action and its reason."""


def decisions_of(run_dir: Path, attempts: Sequence[Attempt]) -> Decisions:
    """Return what was decided after each start of a job, as far as it is noted: the n-th start of a job's file is its n-th that the
    trainer has a file of, where there are as many of both."""
    begun: dict[str, list[tuple[int, int]]] = {}
    decided: dict[tuple[str, tuple[int, int]], str] = {}
    for record in noted(run_dir):
        event = record.get("event")
        if event not in RULES or not fit(record, RULES[event]):
            continue
        start = record["restart"], record.get("inside") or 0
        if event == "started":
            begun.setdefault(record["job"], []).append(start)
        else:
            decided[record["job"], start] = f"{record['action']}: {record['reason']}"
    of_job: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.file is not None and attempt.file.job is not None:
            of_job.setdefault(attempt.file.job, []).append(attempt)
    found: Decisions = {}
    for job, starts in of_job.items():
        noted_starts = begun.get(job, [])
        if len(noted_starts) != len(starts):
            continue
        for attempt, start in zip(starts, noted_starts, strict=True):
            if (decision := decided.get((job, start))) is not None:
                found[id(attempt)] = decision
    return found


def noted(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines about the run's jobs, if nobody but its owner can have written them."""
    path = run_dir / LAUNCH_DIR / JOBS_FILE
    try:
        owner = run_dir.stat().st_uid
        believed = not why_not_own(path.parent, owner) and not why_not_own(path, owner)
    except (FileNotFoundError, NotADirectoryError):
        return iter(())
    return read_lines(path) if believed else iter(())
