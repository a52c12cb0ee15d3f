"""The median of numbers that come one by one, in bounded memory."""

from collections import Counter

MAX_DIFFERENT = 1 << 14
"""Limit of the numbers that are kept apart; beyond these, numbers that are nearly equal are counted together."""
DIGITS = (17, 4, 3, 2, 1)
"""Significant digits to which numbers are kept, fewer each time that too many are different: all of a float's at first."""


class RunningMedian:
    """The median of floats: exact while no more than MAX_DIFFERENT are different, and from then on to a twentieth of a percent
    where they span one or two powers of ten, as paces do. Finite numbers of any size end in at most about 5,700 different ones."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._digits = list(DIGITS)

    def add(self, value: float) -> None:
        """Take one more number in."""
        self._counts[self._rounded(value)] += 1
        while len(self._counts) > MAX_DIFFERENT and len(self._digits) > 1:
            del self._digits[0]
            counts, self._counts = self._counts, Counter()
            for number, times in counts.items():
                self._counts[self._rounded(number)] += times

    def value(self) -> float:
        """Return the median, of an even number the upper one of the middle. Raises: AssertionError if there is no number."""
        left = self._counts.total() // 2
        for number, times in sorted(self._counts.items()):
            left -= times
            if left < 0:
                return number
        raise AssertionError("a median of no numbers")

    def _rounded(self, value: float) -> float:
        digits = self._digits[0]
        return value if digits == DIGITS[0] else float(f"{value:.{digits - 1}e}")
