"""Numbers with their units, as people read them."""

import datetime
import itertools
import math
from collections.abc import Sequence

SCALES = ((1e15, " quadrillion"), (1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k"))
"""Largest first. B is a billion, as tokens are counted."""
LARGEST = 1e100
"""Limit of what is drawn."""
BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def finite(value: object) -> float | None:
    """Return a value of a record as a number; None of what is none, or is not finite: a user may have written it."""
    return float(value) if type(value) in (int, float) and abs(value) < LARGEST else None  # type: ignore[arg-type,operator]


def count(number: float) -> str:
    """Return a count in full up to 99,999, and with three or four digits beyond."""
    if abs(number) < 1e5:
        return f"{number:,.0f}"
    scale, unit = next(found for found in SCALES if abs(number) >= found[0])
    return f"{number / scale:.4g}{unit}"


def figure(number: float | None, digits: int = 4) -> str:
    """Return a number of any size with so many digits; what is not there is a dash."""
    if number is None:
        return "–"
    if not math.isfinite(number):
        return "not finite"
    return f"{number:,.0f}" if abs(number) >= 10**digits else f"{number:.{digits}g}"


def loss(value: object) -> str:
    """Return a loss; null stands in a record for one that is not finite."""
    number = finite(value)
    return "not finite" if number is None else f"{number:.4f}"


def percent(share: float | None) -> str:
    """Return a share of 1."""
    return "–" if share is None else f"{100 * share:.1f} %"


def size(num_bytes: float) -> str:
    """Return bytes in the unit that leaves one to four digits."""
    power = 0
    while abs(num_bytes) >= 1024 and power < len(BYTES) - 1:
        num_bytes, power = num_bytes / 1024, power + 1
    return f"{num_bytes:.0f} B" if power == 0 else f"{num_bytes:.2f} {BYTES[power]}"


def when(unix_s: float | None) -> str:
    """Return a wall-clock time, in UTC; a dash where none is known, or where it is no time."""
    if unix_s is None:
        return "–"
    try:
        return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "–"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from low to high, at most so many, evenly apart: 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * by for by in (1, 2, 5, 10, 20, 50) if (high - low) / (power * by) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten from low to high; where these are fewer than three, 2 and 5 times them too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**power for power in range(first, last + 1)]
    found = [tick for tick in powers if low <= tick <= high]
    if len(found) < 3:
        found = [by * power for power in powers for by in (1, 2, 5) if low <= by * power <= high]
    return found[:: math.ceil(len(found) / 7)] if found else [low]


def labels(numbers: Sequence[float]) -> list[str]:
    """Return the words for the ticks of an axis: one scale for all of them, and digits enough to tell them apart."""
    largest = max((abs(number) for number in numbers), default=0.0)
    scale, unit = next((found for found in SCALES if largest >= found[0] * 10), (1.0, ""))
    gap = min((abs(b - a) for a, b in itertools.pairwise(numbers)), default=largest or 1.0) / scale
    digits = max(0, math.ceil(-math.log10(gap) - 1e-9)) if gap else 0
    if digits > 5:
        significant = max(2, 1 + math.ceil(math.log10(largest / (gap * scale)) - 1e-9))
        return [f"{number:.{significant}g}" for number in numbers]
    return [f"{number / scale:,.{digits}f}{unit if number else ''}" for number in numbers]
