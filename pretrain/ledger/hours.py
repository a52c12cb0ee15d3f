"""What the hours of a run's ranks went to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from pretrain.ledger.starts import Attempt

HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Hours of ranks, which are GPU hours where each rank has a GPU. None of what is not known."""

    total: float | None
    """From the start's command to its last line."""
    useful: float
    """Training of steps that the model is made of."""
    lost: float
    """Training of steps that no later step builds on."""
    evaluation: float
    save: float
    """Pauses for checkpoints."""
    startup: float | None
    """Until the first step could begin."""
    other: float | None
    """The rest: what lies between records, and what was cut off."""

    @property
    def goodput(self) -> float | None:
        """Share of the hours that was useful, 0 to 1."""
        return self.useful / self.total if self.total else None


def hours_of(attempt: Attempt) -> Hours | None:
    """Return the hours of one start; None where its number of ranks is not known."""
    if attempt.num_ranks is None:
        return None
    known = (attempt.useful_s, attempt.lost_s, attempt.evaluation_s, attempt.save_s)
    total_s, startup_s = elapsed_s_of(attempt), attempt.startup_s
    other_s = None
    if total_s is not None and startup_s is not None:
        other_s = max(0.0, total_s - startup_s - sum(known))
        total_s = max(total_s, startup_s + sum(known))  # means of records may be a little more than all of the time
    seconds = {"total": total_s, "startup": startup_s, "other": other_s}
    seconds |= dict(zip(("useful", "lost", "evaluation", "save"), known, strict=True))
    return Hours(**{name: _hours(value, attempt.num_ranks) for name, value in seconds.items()})  # type: ignore[arg-type]


def elapsed_s_of(attempt: Attempt) -> float | None:
    """Return the seconds from a start's command to its last line; None where nothing tells."""
    if attempt.elapsed_s is None or attempt.startup_s is None:
        return attempt.elapsed_s
    return max(attempt.elapsed_s, attempt.startup_s)


def elapsed_s_in_all(attempts: Iterable[Attempt]) -> float | None:
    """Return the seconds of all starts, one behind the other; None if one of them is not known, or if there are none."""
    found = [elapsed_s_of(attempt) for attempt in attempts]
    known = [value for value in found if value is not None]
    return sum(known) if known and len(known) == len(found) else None


def hours_by_device(attempts: Iterable[Attempt]) -> dict[str | None, float | None]:
    """Return the hours of ranks by the kind of device that they had, its name as PyTorch has it; None where nothing tells which.

    A sum with a start whose hours are not known is not known.
    """
    sums: dict[str | None, float | None] = {}
    for attempt in attempts:
        hours = hours_of(attempt)
        total, ranks = (None, 0) if hours is None else (hours.total, attempt.num_ranks or 0)
        devices: Mapping[Any, int] = attempt.devices or {None: ranks}
        for device, count in devices.items():
            before = sums.get(device, 0.0)
            sums[device] = None if total is None or before is None or not ranks else before + total * count / ranks
    return dict(sorted(sums.items(), key=lambda item: (-(item[1] or 0.0), item[0] or "")))


def hours_in_all(parts: Iterable[Hours | None]) -> Hours:
    """Add hours up. A sum with a part that is not known is not known."""
    found = list(parts)
    sums: dict[str, float | None] = {}
    for field in fields(Hours):
        values = [None if part is None else getattr(part, field.name) for part in found]
        known = [value for value in values if value is not None]
        may_lack = field.name in ("useful", "lost", "evaluation", "save")
        sums[field.name] = sum(known) if may_lack or len(known) == len(values) else None
    return Hours(**sums)  # type: ignore[arg-type]


def _hours(seconds: float | None, ranks: int) -> float | None:
    return None if seconds is None else seconds * ranks / HOUR_S
