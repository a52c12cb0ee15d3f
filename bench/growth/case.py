"""One thing whose cost is measured at several sizes, and what its figures say."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Act = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """An act whose time and memory grow with one number."""

    name: str
    """What is done, such as "load a config"."""
    grows_with: str
    """What the size counts, such as "sources"."""
    sizes: tuple[int, ...]
    """Smallest first. The last two set the exponent, so they are far enough apart, and large enough to outweigh a start."""
    prepare: Callable[[int, Path], Act]
    """Write what the act needs into an empty folder; what it returns is timed. It runs in a process of its own."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an act of one size took."""

    size: int
    time_s: float
    """Shortest of the rounds."""
    memory_bytes: int
    """Peak resident memory above what the process had before the act; 0 where nothing was added."""
    counted: dict[str, int]
    """What the act counted itself and returned, such as files; empty for an act that returns no such table."""


def exponent(figures: Sequence[Figures]) -> float:
    """The power of the size by which the time grows between the last two sizes: 1 is linear.

    The smaller sizes are left out: a fixed cost bends them towards 0.
    """
    before, last = figures[-2:]
    return math.log(last.time_s / before.time_s) / math.log(last.size / before.size)
