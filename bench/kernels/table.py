"""What the kernels take and move, as a page: registers, spills, shared memory, width of loads, bytes."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from bench.kernels.ahead import NVIDIA, TARGETS, Compiled, compile_all
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


def compiled() -> list[tuple[Case, list[Launch], list[Compiled]]]:
    """Compile every launch of every case for every GPU. Returns for each its launches and what each takes, as TARGETS."""
    rows: list[tuple[Case, list[Launch]]] = []
    for case in CASES:
        on_each = [_all_launches(case, target) for target in TARGETS]
        rows += [(case, list(of_targets)) for of_targets in zip(*on_each, strict=True)]
    jobs = [
        (compilation(launch), target)
        for _, of_targets in rows
        for launch, target in zip(of_targets, TARGETS, strict=True)
    ]
    done = iter(map(compile_all(jobs).__getitem__, jobs))
    return [(case, of_targets, [next(done) for _ in of_targets]) for case, of_targets in rows]


def compiled_table(rows: Iterable[tuple[Case, list[Launch], list[Compiled]]]) -> Iterator[str]:
    """Lines of a table of what each kernel takes on each GPU, of what ``compiled`` returns."""
    yield f"| operation | kernel | {' | '.join(TARGETS)} | spilled on NVIDIA | on AMD | wide loads |"
    yield "|---|---|" + "---|" * (len(TARGETS) + 3)
    for case, of_targets, results in rows:
        cells = " | ".join(f"{result.registers}, {result.shared_bytes / 1024:.0f} KiB" for result in results)
        nvidia = [result for result in results if result.target in NVIDIA]
        spilled = (
            max(result.spilled_bytes for result in results if (result in nvidia) == here) for here in (True, False)
        )
        wide = min(result.wide_share for result in nvidia)
        yield f"| {case.name} | {of_targets[0].kernel} | {cells} | {' | '.join(map(str, spilled))} | {wide:.0%} |"


def _all_launches(case: Case, target: str) -> list[Launch]:
    forward, backward = launches(case, amd=target not in NVIDIA)
    return forward + backward


def _shapes(case: Case) -> str:
    return ", ".join(dict.fromkeys("×".join(map(str, tensor.shape)) for tensor in case.inputs("meta")))
