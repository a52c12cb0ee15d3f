"""Every kernel, compiled for GPUs that are not here: no spilled register, wide loads."""

import pytest

from bench.kernels.ahead import NVIDIA, Compiled, compile_all
from bench.kernels.cases import CASES, launches
from bench.kernels.recorded import Compilation, Launch, compilation

Table = dict[Compilation, list[Compiled]]


@pytest.fixture(autouse=True)
def interpreter(triton: None) -> None:
    """Processes of their own compile, without the interpreter."""


@pytest.fixture(scope="module")
def table(triton: None) -> Table:
    started: list[Launch] = [launch for case in CASES for side in launches(case) for launch in side]
    wanted = list(dict.fromkeys(compilation(launch) for launch in started))
    return dict(zip(wanted, compile_all(wanted), strict=True))


def test_no_kernel_spills_registers(table: Table) -> None:
    assert table
    for wanted, results in table.items():
        for result in results:
            assert result.spilled_bytes == 0, f"{wanted.kernel} {dict(wanted.constants)}: {result}"


def test_loads_are_wide_on_nvidia(table: Table) -> None:
    for wanted, results in table.items():
        for result in results:
            if result.target in NVIDIA:
                # Cosines and sines are a fifth of the rotary kernel's loads, and its threads share them.
                assert result.wide_share >= 0.8, f"{wanted.kernel} {dict(wanted.constants)}: {result}"
