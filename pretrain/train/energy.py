"""A thread that reads energy counters while a run trains, and writes what they rose by into the run's folder.

Each rank reads that of its own GPU, and the first of a node those of the node, beside training: no collective, no clock but the
monotonic one. Where there are no counters, or none that this process may read, there is no thread and no file.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from fanal.energy_counters import POWERCAP, Counter, open_zones
from fanal.errors import FanalError
from fanal.gpu_energy import open_gpu
from fanal.node_name import node_name
from pretrain.log.energy_file import EnergyFile, write_energy_file
from pretrain.parallel.binding import pci_address
from pretrain.parallel.environment import rank_and_size

logger = logging.getLogger(__name__)

READ_EVERY_S = 30.0
"""Seconds between readings. A socket's counter begins again after ten minutes at 400 W, of those that count to 262 kJ."""
LAST_WAIT_S = 30.0
WRITE_EVERY = 10
"""Readings between writings: five minutes, since thousands of nodes share a file system."""


class EnergyMeter:
    """The counters of this process during one start."""

    def __init__(self, run_dir: str | Path, counters: Sequence[Counter], *, start: int, rank: int) -> None:
        self._run_dir, self._counters, self._start, self._rank = run_dir, counters, start, rank
        self._began, self._ended = time.monotonic(), threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._measure, name="energy", daemon=True)

    def __enter__(self) -> "EnergyMeter":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(LAST_WAIT_S)
        if not self._thread.is_alive():  # else a disk holds it, which keeps no run from its end
            self.write()

    def write(self) -> None:
        """Read the counters, and write what they rose by so far. A disk that does not take it is named once."""
        self._read()
        found = EnergyFile(
            start=self._start,
            rank=self._rank,
            host=node_name(),
            measured_s=time.monotonic() - self._began,
            joules={counter.name: counter.total_uj / 1e6 for counter in self._counters},
        )
        try:
            write_energy_file(self._run_dir, found)
        except (FanalError, OSError) as error:
            if not self._failed:
                logger.warning("the energy of this process is not written, and training continues: %s", error)
            self._failed = True

    def _measure(self) -> None:
        self.write()
        readings = 0
        while not self._ended.wait(READ_EVERY_S):
            readings += 1
            if readings % WRITE_EVERY:
                self._read()
            else:
                self.write()

    def _read(self) -> None:
        for counter in self._counters:
            counter.read()


@contextlib.contextmanager
def measured_energy(
    run_dir: str | Path, *, start: int, device: torch.device, powercap: Path = POWERCAP
) -> Iterator[None]:
    """Measure the energy of this rank's GPU while the block runs, and of the node if it is the first rank on it, where there are
    counters. No collective."""
    rank, _, local_rank = rank_and_size()
    zones = open_zones(powercap) if local_rank == 0 else []
    gpu = open_gpu(pci_address(device.index)) if device.type == "cuda" else None
    counters: list[Counter] = [*zones, *([gpu] if gpu is not None else [])]
    if not counters:
        yield
        return
    with EnergyMeter(run_dir, counters, start=start, rank=rank):
        yield
