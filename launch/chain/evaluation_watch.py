"""The chain's part in evaluations: what is due is queued while the run trains, and what became of it is noted.

``evaluations.jsonl`` in the launch folder, one JSON object a line, each with ``time_utc``, ``event`` and ``step``:
    queued      job
    not queued  reason; it is tried again by the next job of the chain
    ended       job, exit_code, reason
It is not jobs.jsonl, which one process writes at a time and from which a chain decides: evaluations run beside it, on other nodes.
Nothing here ends a chain or delays it. A checkpoint whose evaluation has begun twice is evaluated once (`fanal evaluate`).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from fanal.errors import FanalError, UserError
from fanal.exit_codes import DAMAGED, FINISHED, WRONG_INPUT
from fanal.fields import is_count, is_text
from fanal.files import sync
from fanal.json_lines import read_lines
from fanal.locks import take_lock
from fanal.new_files import append, open_to_append
from fanal.ownership import close_new_files, close_to_others, why_not_own
from fanal.run_folder import COMPLETE, checkpoints_dir, step_name, step_of
from fanal.shown import on_one_line
from launch import slurm
from launch.chain import avoid
from launch.chain.evaluation_rules import due
from launch.chain.evaluations import EVALUATE_SCRIPT
from launch.chain.job import Here, here
from launch.chain.jobs_file import now_utc
from launch.chain.launch_folder import own_script
from launch.chain.until import read_until

EVALUATIONS_NOTED = "evaluations.jsonl"
POLL_S = 30.0
"""Seconds between two looks at the names of the run's checkpoints."""
LOCK_PATIENCE_S = 30.0
EXCLUDE_S = 120
"""Seconds for which an evaluation does not start by itself where nodes are to be avoided, until they are excluded. It is not held:
if this process ends meanwhile, it starts later, and blocks no other."""
FACTS = "evaluations"
"""Key of job.json: how often, in steps, and the last step of the run."""
REASONS = {
    FINISHED: "its figures are recorded",
    WRONG_INPUT: "the input is wrong, or the checkpoint was deleted meanwhile",
    DAMAGED: "the checkpoint or the export is damaged",
}


def watch(folder: Path, *, parent: int | None, poll_s: float = POLL_S) -> None:
    """Queue evaluations of checkpoints as they come, until the process of the job's script is gone; without one, once."""
    close_new_files()
    at, tried = here(folder), set[int]()
    while True:
        queue_due(at, tried)
        if parent is None or os.getppid() != parent:
            return
        time.sleep(poll_s)


def queue_due(at: Here, tried: set[int]) -> None:
    """Queue the evaluation of each complete checkpoint that is due and was not queued yet.

    Args: tried: steps that this process has tried, with those that it tries now added: one whose line a full disk did not take is
        queued once all the same.
    """
    facts = at.facts.get(FACTS)
    if not isinstance(facts, dict):
        return
    for step in due_steps(at.run_dir, {**facts, "train_steps": _last_step(at, facts)}):
        if step in tried or step in queued_steps(at.folder):
            continue
        tried.add(step)
        try:
            later = (f"--begin=now+{EXCLUDE_S}",) if avoid.noted_nodes(at.run_dir) else ()
            job = slurm.submit_with(own_script(at.folder, EVALUATE_SCRIPT), str(step), options=later)
            note(at.folder, "queued", step=step, job=job)
            print(f"evaluation of step {step:,}: job {job}", file=sys.stderr, flush=True)
            if later:
                _keep_off_bad_nodes(at, job)
        except (FanalError, OSError) as error:
            reason = on_one_line(str(error))
            print(f"warning: the evaluation of step {step:,} is not queued: {reason}", file=sys.stderr, flush=True)
            note(at.folder, "not queued", step=step, reason=reason)


def _keep_off_bad_nodes(at: Here, job: str) -> None:
    """Keep an evaluation off the nodes that its chain avoids, and only then let it start. Where that fails it starts later."""
    try:
        avoid.apply_list(avoid.list_of_chain(at.facts), must=job)
        slurm.start_now(job)
    except (FanalError, OSError) as error:
        print(f"warning: job {job} starts in {EXCLUDE_S} s: {on_one_line(str(error))}", file=sys.stderr, flush=True)


def _last_step(at: Here, facts: dict[str, Any]) -> int:
    """Return the step whose checkpoint ends the chain: that of ``--until-step``, else of the run."""
    try:
        return read_until(at.folder).step or facts["train_steps"]
    except UserError:  # ``until.watch`` says so
        return facts["train_steps"]


def due_steps(run_dir: Path, facts: dict[str, Any]) -> list[int]:
    """Return the steps of complete checkpoints that are to be evaluated, rising."""
    folder = checkpoints_dir(run_dir)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = sorted(step for name in names if (step := step_of(name)) is not None)
    return [
        step
        for step in steps
        if due(step, every=1, interval=facts["steps"], train_steps=facts["train_steps"])
        and (folder / step_name(step) / COMPLETE).is_file()
    ]


def ended(folder: Path, step: int, code: int) -> None:
    """Note what became of an evaluation. The chain goes on in any case."""
    close_new_files()
    reason = REASONS.get(code, f"it failed with exit code {code}")
    note(folder, "ended", step=step, job=os.environ.get("SLURM_JOB_ID", ""), exit_code=code, reason=reason)
    print(f"evaluation of step {step:,}: {reason}; the chain goes on", file=sys.stderr, flush=True)


def queued_steps(folder: Path) -> set[int]:
    """Return the steps whose evaluation was queued."""
    return {record["step"] for record in noted(folder) if record["event"] == "queued"}


def noted(folder: Path) -> list[dict[str, Any]]:
    """Return the lines, oldest first; none that another user could have written."""
    path = folder / EVALUATIONS_NOTED
    try:
        if why := why_not_own(path):
            print(f"warning: {path} is not believed: {why}", file=sys.stderr, flush=True)
            return []
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [line for line in read_lines(path) if is_text(line.get("event")) and is_count(line.get("step"))]


def note(folder: Path, event: str, **fields: Any) -> None:
    """Append a line; what the disk does not take is said, and lost."""
    path = folder / EVALUATIONS_NOTED
    try:
        with open_to_append(path) as stream:
            end = time.monotonic() + LOCK_PATIENCE_S
            while not take_lock(stream.fileno()) and time.monotonic() < end:
                time.sleep(0.1)
            close_to_others(stream.fileno())
            append(stream, (json.dumps({"time_utc": now_utc(), "event": event, **fields}) + "\n").encode())
            sync(stream)
    except OSError as error:
        print(f"warning: {event!r} is not noted in {path}: {error}", file=sys.stderr, flush=True)
