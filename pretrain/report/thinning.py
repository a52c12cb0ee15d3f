"""Curves and rows of any number of records, kept in bounded memory: what stands out stays."""

from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_STRETCHES = 256
"""Stretches of a curve, of equally many points each; of each the lowest and the highest point is kept. An even number."""
MAX_ROWS = 48
"""Rows of a table, of which between a half and all are kept, and the oldest."""


class Point(NamedTuple):
    """A number of a run, and when it was."""

    step: int
    tokens: int
    """Tokens consumed."""
    time_s: float
    """Seconds of running; counted back from the end of the run while it is read."""
    value: float


class Curve:
    """Points that come newest first. Its lowest and highest value, its newest and its oldest are always among those kept."""

    def __init__(self) -> None:
        self.count = 0
        self._stretches: list[tuple[Point, Point]] = []
        self._size, self._in_last = 1, 0
        self._newest: Point | None = None
        self._oldest: Point | None = None

    def add(self, point: Point) -> None:
        """Take in the point before those that came."""
        self.count += 1
        self._newest, self._oldest = self._newest or point, point
        if not self._stretches or self._in_last == self._size:
            if len(self._stretches) == MAX_STRETCHES:
                pairs = zip(self._stretches[::2], self._stretches[1::2], strict=True)
                self._stretches, self._size = [_both(*pair) for pair in pairs], 2 * self._size
            self._stretches.append((point, point))
            self._in_last = 0
        self._in_last += 1
        self._stretches[-1] = _both(self._stretches[-1], (point, point))

    def points(self) -> list[Point]:
        """Return the points that are kept, oldest first."""
        kept = {point for stretch in self._stretches for point in stretch}
        kept |= {end for end in (self._newest, self._oldest) if end is not None}
        return sorted(kept, key=lambda point: (point.time_s, point.step))


class Rows:
    """Records that come newest first, of which a bounded number is kept, evenly spread."""

    def __init__(self, limit: int = MAX_ROWS) -> None:
        self.count = 0
        self._limit, self._stride = limit, 1
        self._kept: list[Mapping[str, Any]] = []
        self._oldest: Mapping[str, Any] | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in the row before those that came."""
        if self.count % self._stride == 0:
            if len(self._kept) == self._limit:
                self._kept, self._stride = self._kept[::2], 2 * self._stride
            if self.count % self._stride == 0:
                self._kept.append(row)
        self._oldest = row
        self.count += 1

    def rows(self) -> list[Mapping[str, Any]]:
        """Return the rows that are kept, oldest first."""
        rows = self._kept[::-1]
        return rows if self._oldest is None or rows[0] is self._oldest else [self._oldest, *rows]


def _both(left: tuple[Point, Point], right: tuple[Point, Point]) -> tuple[Point, Point]:
    """Return the lowest and the highest of two stretches; of equal ones, the left one's."""
    return min(left[0], right[0], key=_value), max(left[1], right[1], key=_value)


def _value(point: Point) -> float:
    return point.value
