"""The cores that processes here may use: those the kernel gives, or fewer where a control group limits their time."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from fanal.cgroups import groups_of, lines, number

CORES_OF_JOB = "SLURM_CPUS_ON_NODE"
"""Environment variable of Slurm: cores that a job has of this node, also where nothing binds its processes to them."""


def host_cores(root: Path = Path("/")) -> int:
    """Return the number of cores for work that this process starts, at least 1."""
    return min(len(os.sched_getaffinity(0)), *_limits(root))


def cores_of_node(root: Path = Path("/")) -> int:
    """Return the number of cores for all processes of this job or container here, however this one is bound, at least 1."""
    return min(_limits(root))


def _limits(root: Path) -> Iterator[int]:
    yield os.cpu_count() or 1
    stated = os.environ.get(CORES_OF_JOB, "")
    if stated.isascii() and stated.isdigit():
        yield max(1, int(stated))
    for folder in groups_of(root, "cpu"):
        quota, period = _share(folder)
        if quota and period:
            yield max(1, math.ceil(quota / period))


def _share(folder: Path) -> tuple[int | None, int | None]:
    """Microseconds of all cores that a group may take in a period, and the period's; None where nothing limits it."""
    of_version_2 = "".join(lines(folder / "cpu.max")[:1]).split()
    if len(of_version_2) == 2 and all(text.isdigit() for text in of_version_2):
        return int(of_version_2[0]), int(of_version_2[1])
    return number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
