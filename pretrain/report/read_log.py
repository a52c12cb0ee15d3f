"""What a report shows of ``metrics.jsonl``, in one pass over it and in bounded memory, newest record first.

Backwards, since the newest record of a step is the one that counts: what a start trained behind the step from which a later one
goes on was lost, and that step is known by then. Old logs have no times; theirs are the sums of their steps' times.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fanal.fields import is_count, is_figure, is_text
from fanal.run_progress import newest_metrics
from fanal.running_median import RunningMedian
from pretrain.report.quantities import finite
from pretrain.report.thinning import Curve, Point, Rows

MAX_DOMAINS = 24
"""Domains that have curves: the first that the newest records name."""
MAX_LISTED = 200
"""Starts, and saves that failed, of which everything is kept: the newest."""
NUMBERS = ("loss", "grad_norm", "learning_rate", "tokens_per_second", "mfu_full", "mfu_causal", "peak_memory_bytes")
"""Fields of a step that have curves."""
Record = Mapping[str, Any]


@dataclass
class LoggedStart:
    """A start of the run, as its lines tell."""

    number: int | None
    """None in a log of version 0.1."""
    record: Record = field(default_factory=dict)
    """Its own line; empty where that is torn."""
    end: Record | None = None
    """The line of its orderly end."""
    first_step: int | None = None
    """First step of its own that was logged."""
    last_step: int | None = None
    lost_after: int | None = None
    """Step behind which a later start trained everything again; None if nothing of it was lost."""
    began_unix_s: float | None = None
    """Wall clock of its first line."""
    ended_unix_s: float | None = None
    """Wall clock of its last line."""
    running_s: float = 0.0
    """Seconds from its beginning to its last line."""
    begins_at_s: float = 0.0
    """Seconds of running of all starts before it."""

    @property
    def step(self) -> int | None:
        """Step after which it went on; None where its line is torn."""
        return self.record.get("step")  # a count: no other record is taken

    @property
    def lost_steps(self) -> int:
        """Steps that it is known to have trained and that no later one builds on."""
        if self.lost_after is None or self.last_step is None:
            return 0
        return max(0, self.last_step - max(self.lost_after, self.step or 0))


@dataclass
class RunLog:
    """Content of a log."""

    num_records: int = 0
    num_steps: int = 0
    """Records of steps that count."""
    steps: dict[str, Curve] = field(default_factory=dict)
    """By field of NUMBERS."""
    domains: dict[str, Curve] = field(default_factory=dict)
    """Training loss by domain."""
    domains_left_out: int = 0
    """Records whose domains were more than have curves."""
    lost: Curve = field(default_factory=Curve)
    """Loss of the steps that were lost."""
    validation: dict[str, Curve] = field(default_factory=dict)
    ema_validation: dict[str, Curve] = field(default_factory=dict)
    step_rows: Rows = field(default_factory=Rows)
    validation_rows: Rows = field(default_factory=Rows)
    checkpoint_rows: Rows = field(default_factory=Rows)
    stalls: Curve = field(default_factory=Curve)
    saves: Curve = field(default_factory=Curve)
    failed_saves: list[Record] = field(default_factory=list)
    """The newest MAX_LISTED, newest first."""
    num_failed_saves: int = 0
    decays: list[Record] = field(default_factory=list)
    """The newest MAX_LISTED, oldest first."""
    starts: list[LoggedStart] = field(default_factory=list)
    """Oldest first; of more than MAX_LISTED the newest."""
    num_starts: int = 0
    lost_steps: int = 0
    first_step: Record | None = None
    last_step: Record | None = None
    last_validation: Record | None = None
    first_validation: Record | None = None
    not_finite: int = 0
    """Records whose loss, or gradient norm, is no finite number."""
    pace: RunningMedian = field(default_factory=RunningMedian)
    """Of tokens a second, the lost steps' too."""
    utilization: RunningMedian = field(default_factory=RunningMedian)
    """Of mfu_full."""
    running_s: float = 0.0
    """Seconds that the run has run, over all starts."""

    @property
    def newest_start(self) -> Record:
        """The line of the newest start that has one; empty if there is none."""
        return next((start.record for start in reversed(self.starts) if start.record), {})


def read_log(run_dir: Path) -> RunLog:
    """Read the log of a run; one without records if there is none."""
    return _Reader().read(newest_metrics(run_dir))


class _Reader:
    """Takes records, newest first."""

    def __init__(self) -> None:
        self.log = RunLog()
        self._limit = math.inf
        """Steps above it were trained again by a later start."""
        self._open: LoggedStart | None = None
        self._newest_elapsed_s: float | None = None
        self._behind_s = 0.0
        """Of a log without times: seconds from the record that comes next to the last line of its start."""
        self._newer_step: Record | None = None
        self._after_s = 0.0
        """Seconds that all later starts ran."""

    def read(self, records: Iterable[Record]) -> RunLog:
        for record in records:
            self._take(record)
        self._close()
        log = self.log
        log.starts.reverse()
        begins = 0.0 if log.num_starts == len(log.starts) else log.running_s - sum(s.running_s for s in log.starts)
        for start in log.starts:
            start.begins_at_s = begins
            begins += start.running_s
        return log

    def _take(self, record: Record) -> None:
        if not is_count(record.get("step")):
            return
        kind: object = record.get("kind")
        step: int = record["step"]
        self.log.num_records += 1
        number: int | None = record["start"] if is_count(record.get("start")) else None
        if self._open is None or (number is not None and number != self._open.number):
            self._close()
            self._open = LoggedStart(number=number)
        self._note_times(self._open, record)
        is_lost = step > self._limit
        if is_lost and kind == "step":
            self._open.lost_after = int(self._limit)
        if kind == "step":
            self._step(self._open, record, step, is_lost=is_lost)
        elif kind == "validation" and not is_lost:
            self._validation(record, step)
        elif kind == "checkpoint" and not is_lost:
            self._checkpoint(record, step)
        elif kind == "decay" and not is_lost:
            if len(self.log.decays) < MAX_LISTED:
                self.log.decays.insert(0, record)
        elif kind == "end":
            self._open.end = record
        elif kind == "start":
            self._open.record = record
            self._limit = min(self._limit, step)
            self._close()

    def _note_times(self, start: LoggedStart, record: Record) -> None:
        if self._newest_elapsed_s is None and is_figure(record.get("elapsed_s")):
            self._newest_elapsed_s = record["elapsed_s"]
        if is_figure(record.get("time_unix_s")):
            now: float = record["time_unix_s"]
            start.began_unix_s = now
            start.ended_unix_s = now if start.ended_unix_s is None else start.ended_unix_s

    def _time_s(self, record: Record) -> float:
        """Seconds of running, counted back from the end of the run."""
        if self._newest_elapsed_s is not None and is_figure(record.get("elapsed_s")):
            return record["elapsed_s"] - self._newest_elapsed_s - self._after_s
        return -self._behind_s - self._after_s

    def _step(self, start: LoggedStart, record: Record, step: int, *, is_lost: bool) -> None:
        log = self.log
        if (newer := self._newer_step) is not None:
            self._behind_s += _seconds(newer, newer["step"] - step)
        self._newer_step = record
        start.first_step = step
        start.last_step = max(start.last_step or 0, step)
        for name, median in (("tokens_per_second", log.pace), ("mfu_full", log.utilization)):
            if is_figure(record.get(name)):
                median.add(record[name])
        tokens, time_s = _count(record, "consumed_tokens"), self._time_s(record)
        if is_lost:
            _add(log.lost, record.get("loss"), step, tokens, time_s)
            return
        self._limit = min(self._limit, step - 1)
        log.num_steps += 1
        log.last_step, log.first_step = log.last_step or record, record
        log.not_finite += any(name in record and finite(record[name]) is None for name in ("loss", "grad_norm"))
        for name in NUMBERS:
            _add(log.steps.setdefault(name, Curve()), record.get(name), step, tokens, time_s)
        self._by_domain(log.domains, record.get("loss_by_domain"), step, tokens, time_s)
        log.step_rows.add({**record, "time_s": time_s})

    def _validation(self, record: Record, step: int) -> None:
        tokens, time_s = _count(record, "consumed_tokens"), self._time_s(record)
        self._by_domain(self.log.validation, record.get("validation_loss"), step, tokens, time_s)
        self._by_domain(self.log.ema_validation, record.get("ema_validation_loss"), step, tokens, time_s)
        self.log.validation_rows.add(record)
        self.log.last_validation, self.log.first_validation = self.log.last_validation or record, record

    def _by_domain(self, curves: dict[str, Curve], losses: object, step: int, tokens: int, time_s: float) -> None:
        left_out = False
        for domain, loss in (losses if isinstance(losses, dict) else {}).items():
            if domain not in curves and len(curves) == MAX_DOMAINS:
                left_out = True
                continue
            _add(curves.setdefault(domain, Curve()), loss, step, tokens, time_s)
        self.log.domains_left_out += left_out

    def _checkpoint(self, record: Record, step: int) -> None:
        if is_text(record.get("failure")):
            self.log.num_failed_saves += 1
            if len(self.log.failed_saves) < MAX_LISTED:
                self.log.failed_saves.append(record)
            return
        time_s = self._time_s(record)
        _add(self.log.stalls, record.get("stall_s"), step, 0, time_s)
        _add(self.log.saves, record.get("save_s"), step, 0, time_s)
        self.log.checkpoint_rows.add({**record, "time_s": time_s})

    def _close(self) -> None:
        """The start that was open has no older line."""
        start, log = self._open, self.log
        if start is None:
            return
        newer = self._newer_step
        if newer is not None:
            self._behind_s += _seconds(newer, newer["step"] - (start.step or 0) if start.record else 1)
        start.running_s = self._behind_s if self._newest_elapsed_s is None else self._newest_elapsed_s
        self._after_s += start.running_s
        log.running_s = self._after_s
        log.num_starts += 1
        log.lost_steps += start.lost_steps
        if len(log.starts) < MAX_LISTED:
            log.starts.append(start)
        self._open, self._newest_elapsed_s, self._behind_s, self._newer_step = None, None, 0.0, None


def _add(curve: Curve, value: object, step: int, tokens: int, time_s: float) -> None:
    if (number := finite(value)) is not None:
        curve.add(Point(step, tokens, time_s, number))


def _count(record: Record, name: str) -> int:
    return record[name] if is_count(record.get(name)) else 0


def _seconds(record: Record, steps: int) -> float:
    """Seconds of the steps that a record tells of."""
    return max(0, steps) * record["step_time_s"] if is_figure(record.get("step_time_s")) else 0.0
