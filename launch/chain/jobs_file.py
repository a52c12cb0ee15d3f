"""``jobs.jsonl`` in a launch folder: what was submitted, started and decided, one JSON object a line, oldest first.

Every line has ``time_utc`` and ``event``:
    submitted   jobs, slices, nodes, hours, account, qos, site, config_sha256, script_sha256
    started     job, restart, inside, nodes, step (of the newest complete checkpoint)
    chosen      job, restart, inside, nodes (those that train, of a job with spare ones), left_out, exclude, reason; listed
    decided     job, restart, inside, action, reason, exit_code, step, restarts_without_checkpoint, exclude; listed (those of
                exclude that are in the list of nodes to avoid); by (the job that found out); notice (what else people should
                know, such as slow steps), where there is something
    nodes       job, kept_off, freed, left_in, reason: what became of the nodes that a waiting job may run on
``inside`` counts the restarts inside the allocation before this try; lines of older versions lack it, and mean 0.
Jobs of one run run one at a time, so one process writes at a time. What is decided next rests on these lines, so they are believed
only where nobody but the owner of the run writes. Version 0.1 kept them in the run folder itself.
"""

import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fanal.errors import error_type
from fanal.fields import Rule, fit, is_count, is_text, is_texts, or_null
from fanal.files import sync
from fanal.json_lines import read_lines
from fanal.new_files import append, ends_inside_a_line, open_to_append
from fanal.ownership import ROOT, close_to_others, others_write, why_not_own
from fanal.run_folder import JOBS_FILE, LAUNCH_DIR

TIME = "%Y-%m-%dT%H:%M:%SZ"
FIELDS: dict[str, dict[str, Rule]] = {
    "submitted": {"jobs": is_texts},
    "started": {"job": is_text, "restart": is_count, "inside": or_null(is_count), "nodes": is_texts, "step": is_count},
    "chosen": {
        "job": is_text, "restart": is_count, "inside": or_null(is_count), "nodes": is_texts, "exclude": is_texts,
        "reason": or_null(is_text), "listed": or_null(is_texts),
    },
    "decided": {
        "job": is_text, "restart": is_count, "inside": or_null(is_count), "action": is_text, "reason": is_text, "step": is_count,
        "restarts_without_checkpoint": is_count, "exclude": is_texts, "notice": or_null(is_text),
        "listed": or_null(is_texts),
    },
    "nodes": {"job": is_text, "kept_off": is_texts, "freed": is_texts, "reason": is_text},
}  # fmt: skip
"""Rules for the fields that readers rely on, by event."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a job, or a restart inside its allocation."""

    job: str
    restart: int
    inside: int = 0
    """Restarts inside the allocation before this one."""
    nodes: tuple[str, ...]
    step: int
    """Step of the newest complete checkpoint at the start; 0 if there was none."""
    time_utc: str
    decision: dict[str, Any] | None
    """The ``decided`` line; None while the attempt runs, or if it was lost."""


def note(folder: Path, event: str, **fields: Any) -> dict[str, Any]:
    """Append a line, durably, and return it."""
    record = {"time_utc": now_utc(), "event": event, **fields}
    _set_aside_if_open(folder / JOBS_FILE)
    with open_to_append(folder / JOBS_FILE) as stream:
        close_to_others(stream.fileno())
        append(stream, (("\n" if ends_inside_a_line(stream) else "") + json.dumps(record) + "\n").encode())
        sync(stream)
    return record


def _set_aside_if_open(path: Path) -> None:
    """Rename a file to which others may write: to close it would have its lines believed, and who has it open could add more."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and (why := others_write(found)):
            aside = path.with_name(f"{path.name}.not-believed-{time.time_ns()}")
            path.rename(aside)
            _warn(path, f"{why}, and it is {aside.name} now")


def try_note(folder: Path, event: str, **fields: Any) -> None:
    """Add a line about what is done in any case: a full disk, which may be why, is said and does not keep it from being done."""
    try:
        note(folder, event, **fields)
    except OSError as error:
        print(f"warning: {event!r} is not noted in {folder / JOBS_FILE}: {error}", file=sys.stderr, flush=True)


def must_note(folder: Path, event: str, **fields: Any) -> None:
    """Append a line without which no job may run: what is decided later rests on it.

    Raises: UserError naming the file and why it takes none.
    """
    try:
        note(folder, event, **fields)
    except OSError as error:
        raise error_type(error)(
            f"{folder / JOBS_FILE} must be a file that you may write to, with room for one more line on its disk and in the "
            f"quota: {error.strerror or error}; no job may run that is not noted there"
        ) from None


def read(folder: Path) -> list[dict[str, Any]]:
    """Return all complete lines; none if there is no file, or if it is not believed, which is said. A power cut may leave a torn
    line, a user a strange one."""
    owner = folder.stat().st_uid if folder.exists() else ROOT
    return _believed(folder / JOBS_FILE, owner)


def read_run(run_dir: Path) -> list[dict[str, Any]]:
    """Return all complete lines about the jobs of a run, those of version 0.1 first. Errors: as ``read``."""
    owner = run_dir.stat().st_uid if run_dir.exists() else ROOT
    folder = run_dir / LAUNCH_DIR
    if os.path.lexists(folder) and (why := why_not_own(folder, owner)):
        _warn(folder, why)
        return _believed(run_dir / JOBS_FILE, owner)
    return _believed(run_dir / JOBS_FILE, owner) + _believed(folder / JOBS_FILE, owner)


def _believed(path: Path, owner: int) -> list[dict[str, Any]]:
    """Return the complete lines of a file that nobody but its owner may write to."""
    try:
        why = why_not_own(path, owner)
    except (FileNotFoundError, NotADirectoryError):
        return []
    if why:
        _warn(path, why)
        return []
    return [record for record in read_lines(path) if _is_whole(record)]


def _warn(path: Path, why: str) -> None:
    print(
        f"warning: {path} is not believed: {why}; what jobs did is read where nobody but the run's owner writes (chmod go-w)",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _is_whole(record: dict[str, Any]) -> bool:
    if not fit(record, {"event": is_text, "time_utc": is_text, **FIELDS.get(str(record.get("event")), {})}):
        return False
    with contextlib.suppress(ValueError):
        return bool(datetime.strptime(record["time_utc"], TIME))
    return False


def now_utc() -> str:
    """Return the time now, in the form of ``time_utc``."""
    return datetime.now(UTC).strftime(TIME)


def seconds(time_utc: str) -> float:
    """Return the ``time_utc`` of a line in seconds since the epoch."""
    return time_of(time_utc).timestamp()


def time_of(time_utc: str) -> datetime:
    """Return the ``time_utc`` of a line as a time in UTC."""
    return datetime.strptime(time_utc, TIME).replace(tzinfo=UTC)


def attempts(records: Sequence[dict[str, Any]]) -> list[Attempt]:
    """Return every start of a job since the last ``submitted`` line, with its decision."""
    current = since_submission(records)
    decisions = {_start_of(r): r for r in current if r["event"] == "decided"}
    chosen = {_start_of(r): r["nodes"] for r in current if r["event"] == "chosen"}
    return [
        Attempt(
            job=record["job"], restart=record["restart"], inside=record.get("inside") or 0,
            nodes=tuple(chosen.get(_start_of(record), record["nodes"])),
            step=record["step"], time_utc=record["time_utc"], decision=decisions.get(_start_of(record)),
        )
        for record in current if record["event"] == "started"
    ]  # fmt: skip


def _start_of(record: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return what names the start that a line is about."""
    return record["job"], record["restart"], record.get("inside") or 0


def since_submission(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines from the last ``submitted`` on: a user who submits restarts the counting."""
    last = max((number for number, record in enumerate(records) if record["event"] == "submitted"), default=0)
    return list(records[last:])


def restarts_without_checkpoint(records: Sequence[dict[str, Any]]) -> int:
    """Return the number of restarts in a row up to now that brought no new checkpoint."""
    decided = [record for record in since_submission(records) if record["event"] == "decided"]
    return decided[-1]["restarts_without_checkpoint"] if decided else 0


def excluded(records: Sequence[dict[str, Any]], *, since: datetime) -> tuple[str, ...]:
    """Return the nodes that were noted since the last submission and since then, in that order, without those that a waiting job
    may use again."""
    found: dict[str, None] = {}
    for record in since_submission(records):
        if record["event"] == "nodes":
            for node in record["freed"]:
                found.pop(node, None)
        elif record["event"] in ("chosen", "decided") and time_of(record["time_utc"]) >= since:
            found.update(dict.fromkeys(record["exclude"]))
    return tuple(found)
