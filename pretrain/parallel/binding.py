"""A rank bound to the cores beside its GPU, where a job asks for it: those that the site names, else those that sysfs says, as
torchrun's ``--numa-binding node`` reads it.

No machine with GPUs has confirmed it.
"""

import os
import sys
from pathlib import Path

import torch

NUMA_BINDING = "FANAL_NUMA_BINDING"
"""Environment variable: ``node`` binds each rank; empty binds none."""
CORES_OF_RANKS = "FANAL_CORES_OF_RANKS"
"""Environment variable: the cores of each local rank, such as ``49-55 57-63``; they come before what sysfs says."""
SYSFS = Path("/sys")


def bind_to_gpu(index: int, *, sysfs: Path = SYSFS) -> None:
    """Bind every thread of this process to those of its cores that are beside its GPU, if NUMA_BINDING asks for it.

    What sysfs does not say is said in a line, and nothing is bound: a slower rank is better than none.
    """
    named = os.environ.get(CORES_OF_RANKS, "").split()
    if not named and os.environ.get(NUMA_BINDING) != "node":
        return
    address = CORES_OF_RANKS if named else pci_address(index)
    try:
        beside = _cores(named[index]) if named else cores_beside(address, sysfs)
        cores = beside & os.sched_getaffinity(0)
        if not cores:
            raise ValueError("no core beside it is this job's")
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
    except (OSError, ValueError, IndexError) as error:
        print(f"warning: rank of GPU {index} ({address}) is bound to no cores: {error}", file=sys.stderr, flush=True)


def pci_address(index: int) -> str:
    """Return the PCI address of a GPU by its number in this process, as sysfs and NVML spell it."""
    place = torch.cuda.get_device_properties(index)
    return f"{place.pci_domain_id:04x}:{place.pci_bus_id:02x}:{place.pci_device_id:02x}.0"


def cores_beside(address: str, sysfs: Path) -> set[int]:
    """Return the cores of the NUMA node of a PCI device, of node 0 where the device has none. Raises: OSError, ValueError."""
    node = max(0, int((sysfs / "bus/pci/devices" / address / "numa_node").read_text()))
    return _cores((sysfs / f"devices/system/node/node{node}/cpulist").read_text().strip())


def _cores(ranges: str) -> set[int]:
    """Return the cores of a list as the kernel writes one, such as 0-3,8. Raises: ValueError."""
    cores: set[int] = set()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores
