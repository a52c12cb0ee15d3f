"""Progress of a run, from metrics.jsonl. Pure: records in, figures out.

A run that resumes trains the steps since its checkpoint again, and their records stand in the file twice. Here every step
counts once, as it was trained last.
"""

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fanal.fields import Rule, fit, is_count, is_figure, is_loss, is_losses, is_text, or_null

FIELDS: dict[str, dict[str, Rule]] = {
    "step": {
        "step": is_count, "loss": is_loss, "step_time_s": is_figure, "tokens_per_second": is_figure,
        "tokens_per_second_per_gpu": is_figure,
        "consumed_tokens": or_null(is_count), "skipped_steps": or_null(is_count), "skipped_spikes": or_null(is_count),
    },
    "validation": {"step": is_count, "validation_loss": is_losses, "validation_time_s": is_figure},
    "checkpoint": {"step": is_count, "stall_s": is_figure, "failure": or_null(is_text)},
    "start": {"step": is_count, "train_steps": or_null(is_count)},
    "decay": {"step": is_count, "train_steps": is_count},
    "end": {"step": is_count, "outcome": is_text},
}  # fmt: skip
"""Rules for the fields that are relied on, by kind of record; a record that breaks one is skipped. What an older run
may lack may be null."""

PACE_RECORDS = 50
"""Number of step records whose median is the pace."""
LOSS_BACK_RECORDS = 100
"""Number of step records between the last one and the one its loss is compared with."""
NEWEST_RECORDS = 20_000
"""Number of records that a status looks at: of a longer run it says what these tell. All that it shows comes from the newest ones
anyway, but for the time that attempts lost and what validations and saves cost: then those of old ones are left out."""

MIN_ENDED_S = 600.0
"""Seconds of all attempts together below which they tell of starts alone."""
Record = dict[str, Any]


@dataclass(kw_only=True)
class Timeline:
    """The records of a run in the order of their steps, each step once."""

    steps: list[Record] = field(default_factory=list)
    validations: list[Record] = field(default_factory=list)
    saves: list[Record] = field(default_factory=list)
    """Records of the saves of all attempts: what a save costs does not depend on what became of its steps."""
    end: Record | None = None
    """Record of the run's orderly end, if nothing was trained since."""
    train_steps: int | None = None
    """Last step of the run as its last start knew it, or the decay that has begun since; None if that start was an older
    version's."""
    attempt_begins: int = 0
    """Index in ``steps`` of the first record of the attempt that wrote last, as far as the records tell."""
    is_whole: bool = True
    """Whether it begins with the first record of the run, and not with one of the newest."""

    def cut_after(self, step: int) -> None:
        """Forget what was trained after this step: the run stands here again."""
        for records in (self.steps, self.validations):
            del records[bisect_right(records, step, key=_step) :]
        self.attempt_begins = len(self.steps)


def newest_records(newest_first: Iterable[Record], limit: int = NEWEST_RECORDS) -> tuple[list[Record], bool]:
    """Return (as many records as a status looks at, oldest first, of which ``timeline`` makes the same as of all that were written
    since; whether these are all there are).

    They are stripped of what no status shows. Of steps that were trained again, and so do not count, only the last of each attempt
    is there, which shows where it ended: a run that fell back often takes no more memory than one that did not.
    """
    found: list[Record] = []
    steps_below = validations_below = math.inf
    was_lost = False
    for record in newest_first:
        kind = str(record.get("kind"))
        if kind not in FIELDS or not fit(record, FIELDS[kind]):
            continue
        step = record["step"]
        if kind == "step":
            is_lost, was_lost_before = step >= steps_below, was_lost
            was_lost = is_lost
            if is_lost and was_lost_before:
                continue
            steps_below = min(steps_below, step)
        elif kind == "validation":
            if step >= min(validations_below, steps_below):  # this step was trained again
                continue
            validations_below, steps_below = step, min(steps_below, step + 1)
        if len(found) == limit:
            return found[::-1], False
        found.append({"kind": kind} | {name: record.get(name) for name in FIELDS[kind]})
    return found[::-1], True


def timeline(records: Iterable[Record]) -> Timeline:
    """Return the records of metrics.jsonl, oldest first, without what was trained again later."""
    line = Timeline()
    for record in records:
        kind = str(record.get("kind"))
        if kind not in FIELDS or not fit(record, FIELDS[kind]):
            continue
        step = record["step"]
        if kind == "step":
            if any(kept and step <= kept[-1]["step"] for kept in (line.steps, line.validations)):
                line.cut_after(step - 1)
            elif line.end is not None:
                line.attempt_begins = len(line.steps)
            line.steps.append(record)
            line.end = None
        elif kind == "validation":
            # The record of a step comes before the validation after it, so one of an earlier step is of a new start.
            if line.steps and step < line.steps[-1]["step"]:
                line.cut_after(step)
            elif line.end is not None:
                line.attempt_begins = len(line.steps)
            line.end = None
            del line.validations[bisect_left(line.validations, step, key=_step) :]
            line.validations.append(record)
        elif kind == "checkpoint":
            line.saves.append(record)
        elif kind in ("start", "decay"):
            line.train_steps = record.get("train_steps")
        else:
            line.end = record
    return line


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Medians of step records. Validations, saves and restarts are not in them."""

    num_records: int
    of_current_attempt: bool
    """Whether this is the pace of the current attempt; False where it has no record yet: then it is the pace before."""
    step_time_s: float
    tokens_per_second: float
    tokens_per_second_per_gpu: float


def pace(line: Timeline, attempt_step: int | None) -> Pace | None:
    """Return the pace of the current attempt; None without a record.

    Args: attempt_step, of the checkpoint that the attempt began with, if that is known: an attempt that repeats no step leaves
    no seam in the records.
    """
    current = line.steps[line.attempt_begins :]
    if attempt_step is not None:
        # None are left where the attempt had to start from an older checkpoint.
        current = [record for record in current if record["step"] > attempt_step] or current
    chosen = (current or line.steps)[-PACE_RECORDS:]
    if not chosen:
        return None
    return Pace(
        num_records=len(chosen),
        of_current_attempt=bool(current),
        step_time_s=_median(chosen, "step_time_s"),
        tokens_per_second=_median(chosen, "tokens_per_second"),
        tokens_per_second_per_gpu=_median(chosen, "tokens_per_second_per_gpu"),
    )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An attempt that is over, and what it brought."""

    step_before: int
    """Step of the newest complete checkpoint when the attempt started."""
    step_after: int
    """Step of the newest complete checkpoint when the attempt ended."""
    wall_s: float
    """Seconds from the attempt's start to its decision."""


@dataclass(frozen=True, kw_only=True)
class LostTime:
    """Time that went to anything but the training of steps that are kept."""

    share: float
    """Share of all the time, 0 to 1."""
    counts: str
    """Description of what is counted, for users."""


def lost_share(
    line: Timeline,
    ended: Sequence[Ended],
    *,
    step_time_s: float,
    validation_interval: int | None,
    save_interval: int | None,
) -> LostTime | None:
    """Return the share of time lost: by attempts that are over if some brought steps, else by single validations and saves.

    Args: step_time_s, median of the training steps; intervals in steps, None for never. Returns: None if nothing can be told.
    """
    if not line.is_whole and line.steps:
        ended = [attempt for attempt in ended if attempt.step_after >= line.steps[0]["step"]]
    wall_s = sum(attempt.wall_s for attempt in ended)
    trained_s, kept_until = 0.0, math.inf
    for attempt in reversed(ended):  # a step that a later one has trained again is that one's
        step_after = int(min(attempt.step_after, kept_until))
        kept_until = min(kept_until, attempt.step_before)
        first, end = (bisect_right(line.steps, step, key=_step) for step in (attempt.step_before, step_after))
        of_a_step = _median(line.steps[first:end], "step_time_s") if first < end else step_time_s
        trained_s += of_a_step * max(0, step_after - attempt.step_before)
    if wall_s >= MIN_ENDED_S and 0 < trained_s <= wall_s:
        counts = f"validations, saves and restarts as in {len(ended)} attempt(s) that are over"
        return LostTime(share=1 - trained_s / wall_s, counts=counts)
    costs = (
        ("validations", validation_interval, [record["validation_time_s"] for record in line.validations]),
        ("saves", save_interval, [r["stall_s"] for r in line.saves if r.get("failure") is None]),
    )
    seen = {name: statistics.median(times) / interval for name, interval, times in costs if interval and times}
    extra_s = sum(seen.values())
    if not seen or step_time_s + extra_s <= 0:
        return None
    return LostTime(share=extra_s / (step_time_s + extra_s), counts=f"{' and '.join(seen)}; restarts are not counted")


def eta_hours(steps_left: float, step_time_s: float, lost: LostTime | None) -> float | None:
    """Return the hours of computing until the last step; waiting in the queue comes on top. None if all the time is lost."""
    kept = 1 - (lost.share if lost else 0.0)
    return steps_left * step_time_s / kept / 3600 if kept > 0 else None


def _step(record: Record) -> int:
    return record["step"]


def _median(records: Sequence[Record], name: str) -> float:
    return float(statistics.median(record[name] for record in records))
