"""The one place where a Triton kernel is started, and where Triton is imported.

The operations of this room are importable without Triton, and they run without it where ``start`` is replaced by something
that only looks: a rehearsal on tensors without contents counts their memory, and bench.kernels takes from it what to compile.
So callers write ``launch.start(...)`` and import no name of this module.
"""

import importlib
from typing import TypeAlias

from torch import Tensor

Argument: TypeAlias = Tensor | int | float | None
Constant: TypeAlias = int | float | bool | str


def start(
    kernel: str,
    grid: tuple[int, ...],
    *arguments: Argument,
    num_warps: int = 4,
    num_stages: int = 1,
    **constants: Constant,
) -> None:
    """Start a kernel on the current stream of the current device. No host sync.

    Args: kernel, MODULE.FUNCTION of fanal.kernels.triton.device; grid, how many programs run, up to three dimensions, of
        which the second and third take 65,535 at most; arguments, in the order of its parameters, None for a tensor that it
        then does not read; num_warps (of 32 threads, on AMD 64) a program and num_stages of a loop that are in flight;
        constants, by name: each set of them is a compilation of its own.
    Raises: ImportError where Triton is not installed.
    """
    module, function = kernel.split(".")
    device = importlib.import_module(f"fanal.kernels.triton.device.{module}")
    getattr(device, function)[grid](*arguments, num_warps=num_warps, num_stages=num_stages, **constants)
