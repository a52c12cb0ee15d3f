"""Which devices this machine has, found without torch where it cannot see a GPU: torch takes most of a second to import, and
what starts ranks on a CPU needs nothing else of it."""

import ctypes
import importlib
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from fanal.errors import UserError
from pretrain.parallel.quick_imports import quick_imports

DRIVER = "libcuda.so.1"
"""NVIDIA's driver as a program sees it: the CUDA runtime loads it by this name, and finds no GPU without it."""
DEVICES, IN = ("nvidia*", "dxg"), Path("/dev")
"""Files of a GPU: NVIDIA's own, and the one that Windows passes on to WSL."""

MOST_CPU_RANKS = 4
"""Limit of the ranks on one machine's CPU: more take longer to start and show nothing new."""


def resolve_device(
    requested: Literal["auto", "cuda", "cpu"], *, name: str = "parallel.device", between: str = "="
) -> Literal["cuda", "cpu"]:
    """Return the device type that a run uses.

    Args: name: of the key or option that asks, and what stands between it and its value.
    Raises: UserError if CUDA is asked for and PyTorch sees none.
    """
    if requested == "cpu":
        return "cpu"
    if _cuda_is_available():
        return "cuda"
    if requested == "cuda":
        raise UserError(f"{name} (cuda) needs a GPU and PyTorch sees none; {name}{between}cpu works")
    return "cpu"


def num_local_devices(device_type: Literal["cuda", "cpu"]) -> int:
    """Return the number of ranks this machine has room for: one per GPU, and on a CPU MOST_CPU_RANKS, which share its cores."""
    if device_type == "cpu":
        return MOST_CPU_RANKS
    import torch

    return torch.cuda.device_count()


def gpu_memory_bytes() -> int:
    """Return the memory of the smallest GPU of this machine."""
    import torch

    return min(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))


def _cuda_is_available() -> bool:
    """Return what torch says; it is asked where it is there already, or where its answer may be yes."""
    if "torch" not in sys.modules:
        if not _torch_may_see_a_gpu():
            return False
        with quick_imports():
            importlib.import_module("torch")
    import torch

    return torch.cuda.is_available()


def _torch_may_see_a_gpu() -> bool:
    """Return False only where torch surely sees no GPU: it was built for the CPU alone, or there is neither driver nor device."""
    build = _build_of_torch()
    if "cuda" not in build or build.get("hip"):
        return True
    return build["cuda"] is not None and (_loads(DRIVER) or any(any(IN.glob(name)) for name in DEVICES))


def _build_of_torch() -> dict[str, Any]:
    """Return the names in torch's version.py, which imports nothing of torch; none if there is no such file."""
    spec = find_spec("torch")
    places = [] if spec is None else spec.submodule_search_locations or []
    for path in (Path(place) / "version.py" for place in places):
        if path.is_file():
            return runpy.run_path(str(path))
    return {}


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
