"""The records that led to where a start goes on: those of metrics.jsonl without the steps that a later start trained again."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

from fanal.run_progress import metrics
from pretrain.checkpoint.saving.save import SaveReport
from pretrain.log.record import StepRecord, ValidationRecord
from pretrain.log.scalars import Record
from pretrain.log.stability_record import Norms, StabilityRecord
from pretrain.log.stamp import Stamp

WITH_CURVES: dict[str, type] = {
    "step": StepRecord,
    "validation": ValidationRecord,
    "stability": StabilityRecord,
    "checkpoint": SaveReport,
}


class Past(NamedTuple):
    """A record of the log."""

    record: Record
    time_unix_s: float


def history(run_dir: Path, stamp: Stamp) -> Iterator[Past]:
    """Yield the records with curves from before this start, oldest first, each step once: as it was trained last.

    Reads the log twice, and keeps none of it. A record that this version cannot read is left out.
    """
    limits = _limits(run_dir, stamp)
    started = 0
    for line in _before(run_dir, stamp):
        if line.get("kind") == "start":
            started += 1
        elif line.get("kind") in WITH_CURVES and _step(line) <= limits[started]:
            record = _record(line)
            if record is not None:
                yield Past(record, line["time_unix_s"] if type(line.get("time_unix_s")) is float else 0.0)


def _limits(run_dir: Path, stamp: Stamp) -> list[int]:
    """Return the last step that counts of those logged before the first start, after it, after the second ..."""
    begun = [_step(line) for line in _before(run_dir, stamp) if line.get("kind") == "start"]
    limits = [stamp.start_step]
    for step in reversed(begun):
        limits.append(min(limits[-1], step))
    return limits[::-1]


def _before(run_dir: Path, stamp: Stamp) -> Iterator[dict[str, Any]]:
    for line in metrics(run_dir):
        if line.get("start") == stamp.start:
            return
        yield line


def _step(line: dict[str, Any]) -> int:
    return line["step"] if type(line.get("step")) is int else 0


def _record(line: dict[str, Any]) -> Record | None:
    """Return the record that a line was written from, with NaN where JSON has null for a number that was not finite."""
    kind = WITH_CURVES[line["kind"]]
    fields = dataclasses.fields(kind)
    values = {f.name: _finite_or_nan(line[f.name], f.type) for f in fields if f.name in line}
    try:
        if kind is StabilityRecord:
            values["outside_layers"] = {name: Norms(**norms) for name, norms in values["outside_layers"].items()}
        return kind(**values)
    except (TypeError, LookupError, AttributeError):
        return None


def _finite_or_nan(value: Any, of_type: Any = float) -> Any:
    if value is None:
        return None if type(None) in get_args(of_type) else math.nan
    if isinstance(value, dict):
        return {key: _finite_or_nan(inner) for key, inner in value.items()}
    return [_finite_or_nan(inner) for inner in value] if isinstance(value, list) else value
