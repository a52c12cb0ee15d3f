"""Every start of a run and what became of it: who, on what, with which code; the steps that it trained, and those that were lost.

From the files of its starts; of an older run, which has none, from the lines of its log, which know less.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fanal.fields import fit, is_count, is_figure, is_text, or_null
from fanal.run_folder import METRICS_FILE, STARTS_DIR, start_name
from fanal.run_progress import Standing, metrics, newest_metrics
from pretrain.config.steps import consumed_samples_at
from pretrain.history.evidence import config_in
from pretrain.history.history import History
from pretrain.log.start_file import StartFile

RULES = {
    "start": {"step": is_count, "num_ranks": or_null(is_count), "device": or_null(is_text)},
    "step": {"step": is_count, "step_time_s": is_figure},
    "validation": {"step": is_count, "validation_time_s": is_figure},
    "checkpoint": {"step": is_count, "stall_s": is_figure},
    "end": {"step": is_count, "outcome": is_text, "asked_by": is_text},
}
"""Fields that are relied on, by kind of record; a record that breaks one is passed over."""
Record = dict[str, Any]


@dataclass
class Attempt:
    """A start as the run's own files tell it, while they are read."""

    known_from: str
    number: int | None
    """None in the log of an older version."""
    step: int
    """Step after which it went on."""
    file: StartFile | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    """Its record in the log."""
    last_step: int = 0
    """Last step that it is known to have trained."""
    kept_to: int = 0
    """Last step of its own that the run's model was made of; its step before if there is none."""
    elapsed_s: float | None = None
    """Seconds from its command's start to its last line."""
    useful_s: float = 0.0
    lost_s: float = 0.0
    evaluation_s: float = 0.0
    save_s: float = 0.0
    end: Mapping[str, Any] | None = None
    """The record of its orderly end."""
    end_time_unix_s: float | None = None
    """Wall clock of its last line."""

    @property
    def num_ranks(self) -> int | None:
        """Ranks; None where nothing tells."""
        return self.file.num_ranks if self.file is not None else self.record.get("num_ranks")

    @property
    def startup_s(self) -> float | None:
        """Seconds until it was ready to train; None where nothing tells."""
        return None if self.file is None else self.file.startup_s

    @property
    def lost_steps(self) -> int:
        """Steps that it trained, and that no later step builds on."""
        return self.last_step - self.kept_to

    def lost_samples(self, run_dir: Path) -> int | None:
        """Samples of these steps; None where nothing tells its configuration."""
        if not self.lost_steps:
            return 0
        if self.file is None:
            return None
        train = config_in(self.file.config, run_dir, where=self.known_from).train
        since = Standing(self.step, self.file.consumed_samples)
        return consumed_samples_at(train, self.last_step, since) - consumed_samples_at(train, self.kept_to, since)


def attempts_of(history: History) -> list[Attempt]:
    """Return the starts of a run, oldest first. Two passes over its log, and one over its lines of starts."""
    attempts = _begun(history)
    for attempt, record in _records(history.run_dir, attempts):
        if record["kind"] in ("step", "validation", "checkpoint", "end"):
            attempt.last_step = max(attempt.last_step, record["step"])
    kept_to = history.trained_to
    for attempt in reversed(attempts):
        attempt.kept_to = max(attempt.step, min(attempt.last_step, kept_to))
        kept_to = min(kept_to, attempt.step)
    _add_times(history.run_dir, attempts)
    return attempts


def _begun(history: History) -> list[Attempt]:
    """The starts, as their files tell, and before them those that only the log does."""
    of_files = [
        Attempt(
            known_from=f"{STARTS_DIR}/{start_name(start.number)}",
            number=start.number,
            step=start.step,
            last_step=start.step,
            file=start,
        )
        for start in history.starts
    ]
    by_number = {attempt.number: attempt for attempt in of_files}
    of_log = []
    for record in reversed(list(newest_metrics(history.run_dir, kinds=("start",)))):
        if not fit(record, RULES["start"]):
            continue
        if (number := record.get("start")) in by_number:
            by_number[number].record = record
            continue
        step = record["step"]
        of_log.append(Attempt(known_from=METRICS_FILE, number=number, step=step, last_step=step, record=record))
    return sorted([*of_log, *of_files], key=lambda attempt: attempt.number or 0)


def _records(run_dir: Path, attempts: list[Attempt]) -> Iterator[tuple[Attempt, Record]]:
    """Yield (start, record) of every line that can be relied on. The lines of older versions are of the start before them."""
    by_number = {attempt.number: attempt for attempt in attempts if attempt.number is not None}
    unnumbered = iter([attempt for attempt in attempts if attempt.number is None])
    current: Attempt | None = None
    for record in metrics(run_dir):
        kind = record.get("kind")
        if kind not in RULES or not fit(record, RULES[kind]):
            continue
        number = record.get("start")
        if kind == "start" and number is None:
            current = next(unnumbered, None)
        found = current if number is None else by_number.get(number)
        if found is not None:
            yield found, record


def _add_times(run_dir: Path, attempts: list[Attempt]) -> None:
    """Add what each start spent its time on, from the durations in its records: no wall clock is relied on."""
    timed_to: dict[int, int] = {}  # last step of each start whose time is counted
    last_stall: dict[int, tuple[int, float]] = {}
    for attempt, record in _records(run_dir, attempts):
        key, kind, step = id(attempt), record["kind"], record["step"]
        if (elapsed_s := _figure(record, "elapsed_s")) is not None:
            attempt.elapsed_s = max(attempt.elapsed_s or 0.0, elapsed_s)
        attempt.end_time_unix_s = _figure(record, "time_unix_s") or attempt.end_time_unix_s
        if kind == "step":
            first = timed_to.get(key, attempt.step)
            useful, lost = max(0, min(step, attempt.kept_to) - first), max(0, step - max(first, attempt.kept_to))
            attempt.useful_s += record["step_time_s"] * useful
            attempt.lost_s += record["step_time_s"] * lost
            timed_to[key] = max(first, step)
        elif kind == "validation":
            attempt.evaluation_s += record["validation_time_s"]
        elif kind == "checkpoint":
            attempt.save_s += record["stall_s"]
            last_stall[key] = step, record["stall_s"]
        elif kind == "end":
            attempt.end = record
            waited_s = _figure(record, "save_wait_s") or 0.0
            at, stall_s = last_stall.get(key, (-1, 0.0))
            # It holds the pause of a save that began at the end.
            attempt.save_s += max(0.0, waited_s - stall_s) if at == step else waited_s


def _figure(record: Record, name: str) -> float | None:
    """A figure of a record; None where it has none, as in the log of an older version."""
    value = record.get(name)
    return float(value) if is_figure(value) and value is not None else None
