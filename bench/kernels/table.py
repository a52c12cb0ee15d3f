"""What the kernels take and move, as a page: registers, spills, shared memory, width of loads, bytes."""

from collections.abc import Iterator

from torch import Tensor

from bench.kernels.ahead import NVIDIA, TARGETS, compile_all
from bench.kernels.cases import CASES, Case, launches
from bench.kernels.recorded import Launch, compilation

READ_AND_WRITTEN = {"cross_entropy.backward": (0,), "adamw.step": (0, 1, 2)}
"""The arguments that a kernel writes over what it has read there. All others are read once or written once."""


def moved_bytes(started: Launch) -> int:
    """Return the bytes that a launch reads and writes, if what several programs read (a weight) comes from memory once."""
    twice = READ_AND_WRITTEN.get(started.kernel, ())
    return sum(
        argument.nbytes * (1 + (i in twice))
        for i, argument in enumerate(started.arguments)
        if isinstance(argument, Tensor)
    )


def bytes_table() -> Iterator[str]:
    """Lines of a table of the bytes that each operation moves, from the shapes that it starts its kernels with."""
    yield "| operation | given | forward: bytes an element | least | backward: bytes an element | least |"
    yield "|---|---|---|---|---|---|"
    for case in CASES:
        if case.least is not None:
            yield f"| {case.name} | {_shapes(case)} | {' | '.join(_counted(case))} |"


def _counted(case: Case) -> Iterator[str]:
    """Two cells for the forward, and two for the backward: what is moved, and the least."""
    assert case.least is not None
    for side, least in zip(launches(case), case.least, strict=True):
        yield f"{sum(map(moved_bytes, side)) / case.elements:.2f} | {least:g}" if side else "- | -"


def compiled_table() -> Iterator[str]:
    """Lines of a table of what each kernel takes on each GPU. Compiles them all."""
    rows = [(case, launch) for case in CASES for side in launches(case) for launch in side]
    wanted = list(dict.fromkeys(compilation(launch) for _, launch in rows))
    done = dict(zip(wanted, compile_all(wanted), strict=True))
    yield f"| operation | kernel | warps | {' | '.join(TARGETS)} | spilled | wide loads |"
    yield "|---|---|---|" + "---|" * (len(TARGETS) + 2)
    for case, launch in rows:
        results = done[compilation(launch)]
        cells = " | ".join(f"{result.registers}, {result.shared_bytes / 1024:.0f} KiB" for result in results)
        spilled = max(result.spilled_bytes for result in results)
        wide = min(result.wide_share for result in results if result.target in NVIDIA)
        yield f"| {case.name} | {launch.kernel} | {launch.num_warps} | {cells} | {spilled} | {wide:.0%} |"


def _shapes(case: Case) -> str:
    return ", ".join(dict.fromkeys("×".join(map(str, tensor.shape)) for tensor in case.inputs("meta")))
