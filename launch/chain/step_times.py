"""Step times of a run's newest start beside those before it, from the records of metrics.jsonl. Pure: records in, medians out."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fanal.fields import Rule, fit, is_count, is_figure, or_null

NEWEST = 50
"""Records of the newest start whose median is its step time."""
BEFORE = 1_000
"""Records before these that it is compared with."""
FEWEST = 10
"""Records below which a median says too little: the first steps of a start are slower than the rest."""
RULES: dict[str, Rule] = {
    "step": is_count, "step_time_s": is_figure, "global_batch_size": is_count, "tokens_per_second": is_figure,
    "tokens_per_second_per_gpu": is_figure, "data_wait_s": or_null(is_figure), "start": or_null(is_count),
    "time_unix_s": or_null(is_figure),
}  # fmt: skip
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Medians of the time of a step, all of one batch and on as many ranks."""

    step: int
    """The last step that is counted."""
    num_ranks: int
    global_batch_size: int
    """Samples of a step."""
    num_records: int
    median_s: float
    """Of the newest start's last records."""
    fastest_s: float
    """Time of which a tenth of these records have less: the steps that nothing disturbed."""
    data_wait_s: float
    """Median of what the rank that waited longest for its data waited in a step; 0 in a log of an earlier version."""
    num_before: int
    before_s: float | None
    """Median of the records before these, of this start and of earlier ones; None where they are too few."""


def step_times(newest_first: Iterable[Record], *, since_unix_s: float = 0.0) -> StepTimes | None:
    """Return the step times of a run; None where its newest start has too few records.

    Args: newest_first: records of steps; since_unix_s: when the start that is asked for began, so that an earlier one is not taken
    for it. Records of another batch, or on another number of ranks, end the look back: their steps take another time.
    """
    found: list[Record] = []
    for record in newest_first:
        if not fit(record, RULES) or not record["tokens_per_second_per_gpu"]:
            continue
        if not found and (record.get("time_unix_s") or 0.0) < since_unix_s:
            return None
        if (found and _kind(record) != _kind(found[0])) or len(found) == NEWEST + BEFORE:
            break
        found.append(record)
    of_start = sum(record.get("start") == found[0].get("start") for record in found[:NEWEST])
    if of_start < FEWEST:
        return None
    times = [record["step_time_s"] for record in found]
    now, before = times[:of_start], times[of_start:]
    batch, num_ranks = _kind(found[0])
    return StepTimes(
        step=found[0]["step"], num_ranks=num_ranks, global_batch_size=batch, num_records=len(now),
        median_s=statistics.median(now), fastest_s=statistics.quantiles(now, n=10, method="inclusive")[0],
        data_wait_s=statistics.median(record.get("data_wait_s") or 0.0 for record in found[:of_start]),
        num_before=len(before), before_s=statistics.median(before) if len(before) >= FEWEST else None,
    )  # fmt: skip


def _kind(record: Record) -> tuple[int, int]:
    """Return (samples of a step, ranks)."""
    return record["global_batch_size"], round(record["tokens_per_second"] / record["tokens_per_second_per_gpu"])
