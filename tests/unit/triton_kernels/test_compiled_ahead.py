"""Every kernel, compiled for GPUs that are not here: no register spilled on NVIDIA's, wide loads."""

import pytest

from bench.kernels.ahead import NVIDIA, Compiled
from bench.kernels.table import compiled


@pytest.fixture(autouse=True)
def interpreter(triton: None) -> None:
    """Processes of their own compile, without the interpreter."""


@pytest.fixture(scope="module")
def on_nvidia(triton: None) -> list[tuple[str, Compiled]]:
    """What each kernel takes. Compiled for AMD as well, where it may spill: the page says how much."""
    return [
        (f"{case.name}: {started[0].kernel}", result)
        for case, started, results in compiled()
        for result in results
        if result.target in NVIDIA
    ]


def test_no_kernel_spills_registers(on_nvidia: list[tuple[str, Compiled]]) -> None:
    assert len(on_nvidia) > 50
    assert not [(name, result) for name, result in on_nvidia if result.spilled_bytes]


def test_loads_are_wide(on_nvidia: list[tuple[str, Compiled]]) -> None:
    # The narrow rest: cosines and sines, a row's statistics, where a position's document begins.
    assert not [(name, result) for name, result in on_nvidia if result.wide_share < 0.6]
