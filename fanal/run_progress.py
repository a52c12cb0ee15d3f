"""Progress of a run as its folder shows it: its complete checkpoints, and the records of its metrics file."""

import json
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fanal.fields import Rule, fit, is_count, or_null
from fanal.json_lines import lines_from_end, parse_lines, read_lines
from fanal.plain_files import read_plain
from fanal.run_folder import COMPLETE, METRICS_FILE, STATE, checkpoints_dir, step_name, step_of

RECORD_BEGINS = '{"kind": '
"""Beginning of every line of metrics.jsonl."""
RENAMED_KIND = "eval"
RENAMED_FIELDS = {"held_out_loss": "validation_loss", "eval_time_s": "validation_time_s"}
"""Current name of each field of a record of kind "eval", which version 0.1 wrote; its kind is "validation" now."""


class Standing(NamedTuple):
    """A point of a run. What is left of the run depends on both counters: the batch may have been another one before."""

    step: int = 0
    """Optimizer steps done."""
    consumed_samples: int = 0
    """Samples that these steps used."""
    decay_start_sample: int | None = None
    """First sample of the final decay, of a run in which it has begun on request or at the sample that its config stated."""


NEW_RUN = Standing()
STANDING: dict[str, Rule] = {"step": is_count, "consumed_samples": is_count, "decay_start_sample": or_null(is_count)}
"""Its fields in a checkpoint's state; an older checkpoint lacks the last one."""


def standing(run_dir: Path) -> Standing:
    """Return the point that a run would resume from, as its newest complete checkpoint says; NEW_RUN if none can be read."""
    try:
        steps = whole_steps(run_dir)
    except (OSError, ValueError):  # ValueError: of a name that no path can have
        return NEW_RUN
    for step in reversed(steps):
        found = standing_in(checkpoints_dir(run_dir) / step_name(step))
        if found is not None:
            return found
    return NEW_RUN


def standing_in(checkpoint: Path) -> Standing | None:
    """Return the point at which this checkpoint was written; None if its state cannot be read. Nothing is verified."""
    try:
        state = json.loads(read_plain(checkpoint / STATE))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(state, dict) or not fit(state, STANDING):
        return None
    return Standing(state["step"], state["consumed_samples"], state.get("decay_start_sample"))


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest complete checkpoint; 0 if there is none."""
    return max(whole_steps(run_dir), default=0)


def whole_steps(run_dir: Path) -> list[int]:
    """Return the steps of the checkpoints that are marked as complete, oldest first. Their bytes are not read."""
    folder = checkpoints_dir(run_dir)
    steps = (step_of(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(step for step in steps if step is not None and (folder / step_name(step) / COMPLETE).is_file())


def metrics(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Return the records of metrics.jsonl, oldest first, one at a time; none if there is no file."""
    return map(_with_current_names, read_lines(run_dir / METRICS_FILE, begins=RECORD_BEGINS))


def newest_metrics(run_dir: Path, *, kinds: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the same records, newest first: who has found what is sought stops, and has read only the end of the file.

    Args: kinds: those that are sought; the lines of all others are passed over unparsed, which is some 20 times as fast.
    """
    lines = lines_from_end(run_dir / METRICS_FILE)
    if kinds is not None:
        lines = filter(partial(_may_be, kinds), lines)
    records = parse_lines((line.decode(errors="replace") for line in lines), begins=RECORD_BEGINS)
    for record in map(_with_current_names, records):
        if kinds is None or record.get("kind") in kinds:
            yield record


def _may_be(kinds: Collection[str], line: bytes) -> bool:
    """Whether a line may hold a record of one of these kinds; one that a user has written otherwise may hold any."""
    start = line.rfind(RECORD_BEGINS.encode())
    if start < 0:
        return True
    names = (*kinds, RENAMED_KIND) if "validation" in kinds else tuple(kinds)
    return line.startswith(tuple(f'{RECORD_BEGINS}"{name}"'.encode() for name in names), start)


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """Return the records in complete lines of metrics.jsonl."""
    return list(map(_with_current_names, parse_lines(text.splitlines(), begins=RECORD_BEGINS)))


def _with_current_names(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the names that its kind has today."""
    if record.get("kind") != RENAMED_KIND:
        return record
    return {RENAMED_FIELDS.get(name, name): value for name, value in record.items()} | {"kind": "validation"}
