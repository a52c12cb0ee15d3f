"""Counters of energy that a machine has: Intel's and AMD's RAPL, as Linux shows them below /sys/class/powercap.

A counter is read now and then, and what it rose by is added up: it begins again at 0 some minutes or hours after (at
``max_energy_range_uj``), and a process that ends may leave no word. Most systems let only root read it.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
SOCKET = re.compile(r"(?:intel|amd)-rapl:[0-9]+")
PART_OF_SOCKET = re.compile(r"(?:intel|amd)-rapl:[0-9]+:[0-9]+")
MEMORY = "dram"
"""The one part of a socket's zone that its counter does not hold; its cores would count twice."""
WHOLE_PLATFORM = "psys"
"""Zone of the machine with its sockets in it, which would count them twice."""


class Counter(Protocol):
    """A counter of energy."""

    name: str
    total_uj: int
    """Energy since it was first read."""

    def read(self) -> None:
        """Add what it rose by."""


@dataclass
class Zone:
    """One counter."""

    name: str
    path: Path
    range_uj: int
    """Value behind which it begins again at 0."""
    last_uj: int
    total_uj: int = 0
    """Energy since it was first read."""

    def read(self) -> None:
        """Add what it rose by. One that cannot be read keeps its last value, and is counted when it can be."""
        with contextlib.suppress(OSError, ValueError):
            now = int(self.path.read_text())
            risen = now - self.last_uj
            self.total_uj += risen if risen >= 0 else risen + self.range_uj
            self.last_uj = now


def open_zones(folder: Path = POWERCAP) -> list[Zone]:
    """Return the counters of this machine's sockets and their memory that this process may read; none where there are none."""
    return list(_zones(folder))


def _zones(folder: Path) -> Iterator[Zone]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for zone in found:
        with contextlib.suppress(OSError, ValueError):
            name = (zone / "name").read_text().strip()
            is_socket = SOCKET.fullmatch(zone.name) and name != WHOLE_PLATFORM
            if not is_socket and not (PART_OF_SOCKET.fullmatch(zone.name) and name == MEMORY):
                continue
            counter = zone / "energy_uj"
            top = int((zone / "max_energy_range_uj").read_text())
            yield Zone(name=f"{zone.name} {name}", path=counter, range_uj=top, last_uj=int(counter.read_text()))
