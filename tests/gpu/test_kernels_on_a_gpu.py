"""Kernels on a GPU: ours against their definitions, which attention kernels ran, and the memory that a rehearsal counts."""

import importlib.util

import pytest
import torch

from bench.gpu import attention, kernels, memory
from bench.gpu.model import shape_here
from bench.gpu.setting import here
from fanal.kernels.attention_choice import BACKENDS, select_attention_backend, situation_here
from tests.gpu.where import DEVICE, needs_gpus

pytestmark = needs_gpus(1)

WHERE = torch.device(DEVICE, 0) if DEVICE == "cuda" else torch.device("cpu")
TINY = DEVICE == "cpu"
# On a CPU these kernels run by Triton's interpreter, in a process of its own: bench.gpu.kernels, and `make kernels`.
NEEDS_TRITON = pytest.mark.skipif(
    DEVICE == "cpu" or importlib.util.find_spec("triton") is None, reason="needs a GPU and triton"
)
CASES = {case.name: case for case in kernels.cases(tiny=True, device=torch.device("meta"))}


@NEEDS_TRITON
@pytest.mark.parametrize("dtype", kernels.DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_of_ours_equals_its_definition(name: str, dtype: torch.dtype) -> None:
    case = next(case for case in kernels.cases(tiny=False, device=WHERE) if case.name == name)
    assert max(kernels.differences(case, dtype, WHERE)) <= kernels.BOUND[dtype] * case.looseness


@NEEDS_TRITON
def test_updates_of_our_adamw_equal_torchs() -> None:
    assert kernels.adamw_difference(WHERE) <= 1e-5


@pytest.mark.parametrize("asked", [{}, {"documents": True}], ids=["whole rows", "documents"])
def test_what_auto_takes_runs_a_fused_kernel_by_the_profiler_s_names(asked: dict[str, object]) -> None:
    situation = situation_here(device=WHERE, dtype=torch.bfloat16, head_size=128, num_heads=16, num_groups=4, **asked)
    name = select_attention_backend("auto", situation, WHERE).name
    ran = attention.kernels_of(name, situation, 2048 if DEVICE == "cuda" else 64, WHERE)
    assert attention.is_fused(ran) if DEVICE == "cuda" else "_CausalBlocks" in ran, ran


def test_the_definition_is_told_apart_from_a_fused_kernel() -> None:
    situation = situation_here(device=WHERE, dtype=torch.bfloat16, head_size=64, num_heads=4, num_groups=2)
    assert "reference" in BACKENDS
    assert not attention.is_fused(attention.kernels_of("reference", situation, 512, WHERE))


def test_the_rehearsed_peak_is_what_the_allocator_gave() -> None:
    shape = shape_here(here())
    counted = memory.rehearsed(shape, here())
    if counted is None:
        pytest.skip("this version has no `fanal rehearse`")
    measured = memory.measured_peak(shape, here())
    assert counted > 0 and (measured is None or counted == pytest.approx(measured, rel=memory.BOUND))
