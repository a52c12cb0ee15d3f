"""What the hours of a run's ranks went to."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

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
    total_s, startup_s = attempt.elapsed_s, attempt.startup_s
    other_s = None
    if total_s is not None and startup_s is not None:
        total_s = max(total_s, startup_s)
        other_s = max(0.0, total_s - startup_s - sum(known))
        total_s = max(total_s, startup_s + sum(known))  # means of records may be a little more than all of the time
    seconds = {"total": total_s, "startup": startup_s, "other": other_s}
    seconds |= dict(zip(("useful", "lost", "evaluation", "save"), known, strict=True))
    return Hours(**{name: _hours(value, attempt.num_ranks) for name, value in seconds.items()})  # type: ignore[arg-type]


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
