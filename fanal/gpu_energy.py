"""The counter of energy that an NVIDIA GPU has, by the library of its driver (NVML), which needs no package.

``nvmlDeviceGetTotalEnergyConsumption``: millijoules of the complete GPU since the driver was loaded, from Volta on (reference of
NVML). Of a GPU that is cut into instances (MIG) it counts all of them. Not yet run on a GPU.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
PREFIX = "nvml:"
"""Beginning of the names of these counters."""
SUCCESS = 0


@dataclass
class GpuCounter:
    """The counter of one GPU."""

    name: str
    library: Any
    """NVML, loaded and begun."""
    handle: ctypes.c_void_p
    last_mj: int
    total_uj: int = 0
    """Energy since it was first read."""

    def read(self) -> None:
        """Add what it rose by. One that cannot be read keeps its last value, and is counted when it can be; one that is lower began
        again at 0, as after a reset."""
        now = _millijoules(self.library, self.handle)
        if now is not None:
            self.total_uj += 1000 * (now - self.last_mj if now >= self.last_mj else now)
            self.last_mj = now


def open_gpu(address: str, *, library: Any = None) -> GpuCounter | None:
    """Return the counter of the GPU at a PCI address, such as ``0000:1b:00.0``; None where there is none that can be read.

    Args: library: in the place of LIBRARY.
    """
    try:
        nvml = ctypes.CDLL(LIBRARY) if library is None else library
        by_address, energy = nvml.nvmlDeviceGetHandleByPciBusId_v2, nvml.nvmlDeviceGetTotalEnergyConsumption
        if nvml.nvmlInit_v2() != SUCCESS:
            return None
    except (OSError, AttributeError):  # no driver, or one without these functions
        return None
    handle = ctypes.c_void_p()
    by_address.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]
    energy.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_ulonglong)]
    if by_address(address.encode(), ctypes.byref(handle)) != SUCCESS:
        return None
    first = _millijoules(nvml, handle)
    return None if first is None else GpuCounter(PREFIX + address, nvml, handle, first)


def _millijoules(nvml: Any, handle: ctypes.c_void_p) -> int | None:
    found = ctypes.c_ulonglong()
    code = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(found))
    return found.value if code == SUCCESS else None
