"""What an operation would start on a GPU: taken from a run on tensors without contents, so that what is compiled is what runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fanal.kernels.triton import launch

TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
}
"""Triton's names."""


@dataclass(frozen=True)
class Launch:
    """One start of a kernel, as launch.start is called."""

    kernel: str
    grid: tuple[int, ...]
    arguments: tuple[launch.Argument, ...]
    num_warps: int
    num_stages: int
    constants: tuple[tuple[str, launch.Constant], ...]


@dataclass(frozen=True)
class Compilation:
    """What Triton compiles for a launch: its kinds of arguments, no tensors, so that another process can take it."""

    kernel: str
    arguments: tuple[tuple[str, bool, launch.Constant | None], ...]
    """The type, whether the pointer or the number is a multiple of 16, and the value of a constant."""
    num_warps: int
    num_stages: int
    constants: tuple[tuple[str, launch.Constant], ...]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Note what is started, and start nothing."""
    launches: list[Launch] = []

    def start(
        kernel: str,
        grid: tuple[int, ...],
        *arguments: launch.Argument,
        num_warps: int = 4,
        num_stages: int = 1,
        **constants: launch.Constant,
    ) -> None:
        launches.append(Launch(kernel, grid, arguments, num_warps, num_stages, tuple(sorted(constants.items()))))

    before = launch.start
    launch.start = start
    try:
        yield launches
    finally:
        launch.start = before


def compilation(started: Launch) -> Compilation:
    """Return what Triton would compile at this start, by the rules of its runtime (triton 3.7.1).

    A tensor of torch's allocator begins at a multiple of 16 bytes. An integer of 1 is a constant; one that is a multiple of 16
    is compiled as such, which is what makes loads wide.
    """
    return Compilation(
        started.kernel,
        tuple(_kind(argument) for argument in started.arguments),
        started.num_warps,
        started.num_stages,
        started.constants,
    )


def _kind(argument: launch.Argument) -> tuple[str, bool, launch.Constant | None]:
    if isinstance(argument, Tensor):
        return f"*{TYPES[argument.dtype]}", argument.storage_offset() * argument.element_size() % 16 == 0, None
    if argument is None or (argument == 1 and isinstance(argument, int)):
        return "constexpr", False, argument
    if isinstance(argument, float):
        return "fp32", False, None
    return "i32" if -(2**31) <= argument < 2**31 else "i64", argument % 16 == 0, None
