"""Status of a run, from its folder alone, and from Slurm where it is available. Reads only; a run may be writing.

launch/status/progress.py says how far it is, launch/status/text.py shows it to users.
"""

import json
import math
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fanal.errors import FanalError, UserError, error_type
from fanal.fields import fit, is_count, is_text
from fanal.plain_files import read_plain
from fanal.run_folder import (
    COMPLETE,
    JOB,
    JOBS_FILE,
    LAUNCH_DIR,
    METRICS_FILE,
    checkpoints_dir,
    is_bad,
    is_part,
    step_name,
    step_of,
)
from fanal.run_folder import CONFIG as CHECKPOINT_CONFIG
from fanal.run_progress import newest_metrics, standing
from launch.chain import jobs_file
from launch.chain.request import launch_dir
from launch.chain.script import CONFIG, SITE
from launch.sites.site import read_site
from launch.status.against_plan import against_plan
from launch.status.collectives import hang
from launch.status.progress import (
    LOSS_BACK_RECORDS,
    Ended,
    Pace,
    Timeline,
    eta_hours,
    lost_share,
    newest_records,
    pace,
    timeline,
)
from launch.status.queue import Queue, jobs_of, queue_of, state_of
from launch.status.unreadable import UNREADABLE
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at, global_batch_size_at, has_one_batch

SIGNS = (METRICS_FILE, JOBS_FILE, f"{LAUNCH_DIR}/{JOB}", checkpoints_dir("").name)
"""Files and folders of which a run has at least one."""


def status(run_dir: Path, *, queue: Queue = queue_of) -> dict[str, Any]:
    """Return everything that is known of a run, ready for JSON: units in the keys, null for what is not known.

    ``state`` is one of: not started, waiting (for the queue), running, finished, stopped, gone (it should be in the queue and
    is not), unknown (no job of ours, and no end of its own).
    Args: queue: how Slurm's queue is asked.
    Raises: UserError if the folder is not that of a run, or cannot be read.
    """
    run_dir = run_dir.absolute()
    try:
        return _status(run_dir, queue)
    except OSError as error:
        if not str(error.filename).startswith(str(run_dir)):
            raise  # not of a file of the run: a bug, or a library's
        raise _cannot_read(run_dir, error) from None


def finite(value: Any) -> Any:
    """Return a value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cannot_read(run_dir: Path, error: OSError) -> FanalError:
    # Half a status would mislead: a run whose checkpoints cannot be seen looks like one without.
    works = "files as the run has written them work"
    if isinstance(error, PermissionError):
        works = f"`chmod -R g+rX {shlex.quote(str(run_dir))}` by its owner works, and g+x for folders above it"
    return error_type(error)(f"{error.filename or run_dir} must be readable for a status: {error.strerror}; {works}")


def _status(run_dir: Path, ask: Queue) -> dict[str, Any]:
    _check_is_run(run_dir)
    now = time.time()
    checkpoint = _checkpoints(run_dir, now)
    facts = facts_of(run_dir)
    records = jobs_file.read_run(run_dir)
    attempts = jobs_file.attempts(records)
    queue, no_queue = ask(run_dir, facts)
    line, age_s = _timeline(run_dir, attempts[-1] if attempts else None, now)
    step = max((record["step"] for record in [*line.steps[-1:], *([line.end] if line.end else [])]), default=0)
    step = max(step, checkpoint["step"] or 0)
    run = _config(run_dir, checkpoint["step"], at_step=step)
    train_steps = _train_steps(run_dir, run, line)
    state = state_of(records, attempts, queue, line, complete=train_steps is None or step >= train_steps)
    # What is not in a checkpoint is trained again, unless it is being trained now.
    stands_at = step if state in ("running", "unknown") else (checkpoint["step"] or 0)
    speed = pace(line, attempts[-1].step if attempts else None)
    plan, no_plan = against_plan(run_dir, run, line, site_name=str((facts or {}).get("site") or ""))
    last = line.steps[-1] if line.steps else {}  # .get: a run may be older than a field
    left = None if train_steps is None else 0 if state == "finished" else max(0, train_steps - stands_at)
    return {
        "run_dir": str(run_dir), "state": state, "step": step, "train_steps": train_steps, "steps_left": left,
        "consumed_tokens": last.get("consumed_tokens"),
        "metrics_age_s": age_s, "hang": hang(run_dir), **_losses(line), "pace": asdict(speed) if speed else None,
        "plan": plan, "plan_problem": no_plan,
        **_eta(line, attempts, run, facts, run_dir, speed, left, stands_at),
        "checkpoint": checkpoint,
        "skipped_steps": last.get("skipped_steps"),
        "skipped_spikes": last.get("skipped_spikes"),
        **jobs_of(records, attempts, queue), "slurm_problem": no_queue,
    }  # fmt: skip


def _check_is_run(run_dir: Path) -> None:
    if not is_run(run_dir):
        what = "does not exist" if not _is_there(run_dir) else f"holds none of {', '.join(SIGNS)}"
        raise UserError(
            f"RUN_DIR ({run_dir}) must be the folder of a run, which the config names run_dir, or of runs, and it {what}; "
            "the folder that `fanal launch submit` printed works, such as runs/mine"
        )


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run. Raises: OSError where nobody may look."""
    return any(_is_there(path / sign) for sign in SIGNS)


def _is_there(path: Path) -> bool:
    """Whether a path exists, like Path.exists, which in some versions of Python is silently false where nobody may look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def facts_of(run_dir: Path) -> dict[str, Any] | None:
    """Return the content of job.json; None for a run that launch did not start, or where it is damaged."""
    try:
        facts = json.loads(read_plain(launch_dir(run_dir) / JOB))
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and fit(facts, {"name": is_text, "minutes": is_count}) else None


def _config(run_dir: Path, newest: int | None, *, at_step: int) -> RunConfig | None:
    """Return the resolved run: of its jobs, else of its newest checkpoint; None if neither can be read.

    A run that trained beyond the last step of its jobs was made longer by hand: then its checkpoint's, which is younger.
    """
    paths = [launch_dir(run_dir) / CONFIG]
    if newest is not None:
        paths.append(checkpoints_dir(run_dir) / step_name(newest) / CHECKPOINT_CONFIG)
    found = []
    for path in paths:
        try:
            if path.is_file():
                found.append(load_run(path))
        except UNREADABLE:
            continue  # of another version, or just being deleted: the rest is still worth showing
    return next((run for run in found if run.train.train_steps >= at_step), found[0] if found else None)


def _train_steps(run_dir: Path, run: RunConfig | None, line: Timeline) -> int | None:
    """Return the last step of the run: as its last start knew it, unless jobs were submitted since; else its config's."""
    if line.train_steps is not None and _written_s(run_dir / METRICS_FILE) >= _written_s(launch_dir(run_dir) / CONFIG):
        return line.train_steps
    return run.train.train_steps if run else None


def _written_s(path: Path) -> float:
    """Return when a file was written, in seconds since the epoch; 0 without one."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _checkpoints(run_dir: Path, now: float) -> dict[str, Any]:
    """Return the complete checkpoints, the newest of them, and what else lies there. Folders may vanish meanwhile."""
    folder = checkpoints_dir(run_dir)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    written: dict[int, float] = {}
    for name in names:
        step = step_of(name)
        if step is not None:
            try:
                written[step] = (folder / name / COMPLETE).stat().st_mtime
            except PermissionError:
                raise
            except OSError:
                continue
    newest = max(written, default=None)
    return {
        "step": newest,
        "age_hours": None if newest is None else max(0.0, now - written[newest]) / 3600,
        "num_on_disk": len(written),
        "num_being_written": sum(map(is_part, names)),
        "num_set_aside": sum(is_bad(name) for name in names),
    }


def _timeline(run_dir: Path, attempt: jobs_file.Attempt | None, now: float) -> tuple[Timeline, float | None]:
    """Return the records, and the seconds since the last one was written."""
    records, is_whole = newest_records(newest_metrics(run_dir))
    line = timeline(records)
    line.is_whole = is_whole
    if not is_whole and not any(record["kind"] == "start" for record in records):
        line.train_steps = timeline(
            newest_records(newest_metrics(run_dir, kinds=("start", "decay")), limit=1)[0]
        ).train_steps
    try:
        written = (run_dir / METRICS_FILE).stat().st_mtime
    except OSError:
        return line, None
    if attempt is not None and attempt.decision is None and written < jobs_file.seconds(attempt.time_utc):
        line.cut_after(attempt.step)  # started, nothing written yet: what was trained since its checkpoint is lost
        line.end = None
    return line, max(0.0, now - written)


def _losses(line: Timeline) -> dict[str, Any]:
    """Return the last training loss, the one of LOSS_BACK_RECORDS records before, and the last validation (validation)
    losses, in nats."""
    last = line.steps[-1] if line.steps else None
    before = line.steps[max(0, len(line.steps) - 1 - LOSS_BACK_RECORDS)] if len(line.steps) > 1 else None
    validation = line.validations[-1] if line.validations else None
    return {
        "loss_nats": last["loss"] if last else None,
        "loss_step": last["step"] if last else None,
        "loss_before_nats": before["loss"] if before else None,
        "loss_before_step": before["step"] if before else None,
        "validation_loss_nats": validation["validation_loss"] if validation else None,
        "validation_step": validation["step"] if validation else None,
    }


def _eta(
    line: Timeline,
    attempts: list[jobs_file.Attempt],
    run: RunConfig | None,
    facts: dict[str, Any] | None,
    run_dir: Path,
    speed: Pace | None,
    left: int | None,
    stands_at: int,
) -> dict[str, Any]:
    """Return the hours and jobs until the last step, and what is counted in them."""
    hours_per_job = _hours_per_job(facts, run_dir)
    known: dict[str, Any] = {"eta_hours": None, "eta_jobs": None, "eta_counts": None, "lost_share": None}
    known["hours_per_job"] = hours_per_job
    if left is None or run is None or speed is None:
        return known if left != 0 else {**known, "eta_hours": 0.0, "eta_jobs": 0 if hours_per_job else None}
    lost = lost_share(
        line, _ended(attempts), step_time_s=speed.step_time_s, validation_interval=run.train.validation_interval,
        save_interval=run.checkpoint.interval,
    )  # fmt: skip
    hours = eta_hours(_steps_of_now(run, run_dir, stands_at, left), speed.step_time_s, lost)
    return {
        "eta_hours": hours,
        "eta_jobs": math.ceil(hours / hours_per_job) if hours is not None and hours_per_job else None,
        "eta_counts": f"training, {lost.counts}" if lost else "training alone",
        "lost_share": lost.share if lost else None,
        "hours_per_job": hours_per_job,
    }


def _steps_of_now(run: RunConfig, run_dir: Path, stands_at: int, left: int) -> float:
    """Return the steps that are left, in steps of the batch that is trained now: ramps and stages make later ones longer."""
    if has_one_batch(run.train):
        return left
    since = standing(run_dir)
    now, then = (consumed_samples_at(run.train, step, since) for step in (stands_at, stands_at + left))
    return (then - now) / global_batch_size_at(run.train, now)


def _hours_per_job(facts: dict[str, Any] | None, run_dir: Path) -> float | None:
    """Return the hours that one job trains: its walltime without the margin for the last checkpoint."""
    if facts is None:
        return None
    margin_s = facts.get("stop_margin_s")  # of `submit --stop-margin-s`; jobs of an older launch do not say it
    if not is_count(margin_s):
        margin_s = _site_margin_s(run_dir)
    whole_s = facts["minutes"] * 60
    return (whole_s - margin_s if margin_s < whole_s else whole_s) / 3600


def _site_margin_s(run_dir: Path) -> int:
    try:
        return read_site(launch_dir(run_dir) / SITE).stop_margin_s
    except UNREADABLE:
        return 0


def _ended(attempts: list[jobs_file.Attempt]) -> list[Ended]:
    """Return the attempts that decided for themselves. One that was lost was decided for by the next, at a time that
    says nothing."""
    return [
        Ended(
            step_before=attempt.step,
            step_after=attempt.decision["step"],
            wall_s=jobs_file.seconds(attempt.decision["time_utc"]) - jobs_file.seconds(attempt.time_utc),
        )
        for attempt in attempts
        if attempt.decision is not None and attempt.decision.get("by") == f"{attempt.job}-{attempt.restart}"
    ]
