"""The kernels on a GPU: their bandwidth against a copy's, and their time against torch's versions. Not yet run on one."""

from collections.abc import Callable, Iterator

import torch

from bench.kernels.cases import CASES, Case, Outputs, differentiate, launches
from bench.kernels.table import moved_bytes

COPY_BYTES = 2**30


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call, the cache emptied before each."""
    from triton.testing import do_bench  # pyright: ignore[reportMissingImports]

    return do_bench(call, warmup=50, rep=200, return_mode="median")


def copy_bandwidth() -> float:
    """Return the bytes a second, read and written together, that a copy of 1 GiB moves."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (milliseconds(lambda: target.copy_(source)) / 1e3)


def measured_table() -> Iterator[str]:
    """Lines of a table, one for each operation."""
    copy = copy_bandwidth()
    yield f"A copy moves {copy / 1e9:.0f} GB/s on {torch.cuda.get_device_name()}."
    yield ""
    yield "| operation | pass | ms | of a copy's bandwidth | torch ms |"
    yield "|---|---|---|---|---|"
    for case in CASES:
        ours, theirs = _passes(case, case.operation), _passes(case, case.by_torch)
        for name, mine, other, side in zip(("forward", "backward"), ours, theirs, launches(case, "cuda"), strict=True):
            if not side:
                continue
            bandwidth = sum(map(moved_bytes, side)) / (mine / 1e3)
            share = "-" if case.least is None else f"{bandwidth / copy:.0%}"
            yield f"| {case.name} | {name} | {mine:.3f} | {share} | {other:.3f} |"


def _passes(case: Case, operation: Callable[..., Outputs]) -> tuple[float, float]:
    """Return the milliseconds of the forward and of the backward, the second as a difference."""
    tensors = case.inputs("cuda")
    forward = milliseconds(lambda: operation(*tensors))

    def both() -> None:
        for tensor in tensors:
            tensor.grad = None
        differentiate(operation(*tensors))

    return forward, milliseconds(both) - forward
