"""A rank bound to the cores beside its GPU, where a job asks for it. Read from sysfs, as torchrun's ``--numa-binding node`` does.

No machine with GPUs has confirmed it.
"""

import os
import sys
from pathlib import Path

import torch

NUMA_BINDING = "FANAL_NUMA_BINDING"
"""Environment variable: ``node`` binds each rank; empty binds none."""
SYSFS = Path("/sys")


def bind_to_gpu(index: int, *, sysfs: Path = SYSFS) -> None:
    """Bind every thread of this process to those of its cores that are beside its GPU, if NUMA_BINDING asks for it.

    What sysfs does not say is said in a line, and nothing is bound: a slower rank is better than none.
    """
    if os.environ.get(NUMA_BINDING) != "node":
        return
    address = pci_address(index)
    try:
        cores = cores_beside(address, sysfs) & os.sched_getaffinity(0)
        if not cores:
            raise ValueError("no core beside it is this job's")
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
    except (OSError, ValueError) as error:
        print(f"warning: rank of GPU {index} ({address}) is bound to no cores: {error}", file=sys.stderr, flush=True)


def pci_address(index: int) -> str:
    """Return the PCI address of a GPU by its number in this process, as sysfs and NVML spell it."""
    place = torch.cuda.get_device_properties(index)
    return f"{place.pci_domain_id:04x}:{place.pci_bus_id:02x}:{place.pci_device_id:02x}.0"


def cores_beside(address: str, sysfs: Path) -> set[int]:
    """Return the cores of the NUMA node of a PCI device, of node 0 where the device has none. Raises: OSError, ValueError."""
    node = max(0, int((sysfs / "bus/pci/devices" / address / "numa_node").read_text()))
    ranges = (sysfs / f"devices/system/node/node{node}/cpulist").read_text().strip()
    cores: set[int] = set()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores
