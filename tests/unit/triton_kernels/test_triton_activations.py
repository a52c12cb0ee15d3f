"""The feed-forward activations through Triton, against their definitions. Shapes: s sequence, b micro batch, f feed-forward."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.triton.activations import geglu, squared_relu, swiglu
from tests.unit.triton_kernels.against import DTYPES, differences, planted, random, run


def halves(activation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: activation(*x.chunk(2, dim=-1))


PAIRS = {
    "swiglu": (swiglu, halves(reference.swiglu)),
    "geglu": (geglu, halves(reference.geglu)),
    "squared_relu": (squared_relu, reference.squared_relu),
}
SIZES = [(1, 1, 128), (3, 2, 254), (2, 1, 2200), (5, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAIRS)
def test_the_activation_and_its_gradient_equal_the_definition(
    name: str, size: tuple[int, ...], dtype: torch.dtype
) -> None:
    assert not differences(*PAIRS[name], [random(*size, dtype=dtype, scale=3)])


@pytest.mark.parametrize("name", PAIRS)
def test_large_values_are_neither_infinite_nor_no_number(name: str) -> None:
    x = torch.tensor([[-200.0, -30.0, 0.0, 30.0, 200.0, 1.0, -1.0, 2.0]]).repeat(1, 2)
    assert not differences(*PAIRS[name], [x])
    assert all(tensor.isfinite().all() for tensor in run(PAIRS[name][0], [x]))


@pytest.mark.parametrize("name", PAIRS)
def test_rows_that_do_not_lie_in_one_piece_give_the_same_bits(name: str) -> None:
    wide = random(6, 3, 200)
    for cut in (wide[..., 10:110], wide.transpose(0, 1)[..., :100], wide.permute(2, 0, 1)[:, :, :2]):
        copied = cut.clone(memory_format=torch.contiguous_format)
        for found, expected in zip(run(PAIRS[name][0], [cut]), run(PAIRS[name][0], [copied]), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", PAIRS)
def test_between_forward_and_backward_the_input_alone_is_held(name: str) -> None:
    x, held = random(3, 2, 64).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        PAIRS[name][0](x)
    assert [tensor.data_ptr() for tensor in held] == [x.data_ptr()]


FAULTS = [
    ("swiglu", "a gate that is not multiplied", "(g * tl.sigmoid(a) * u)", "(tl.sigmoid(a) * u)"),
    ("swiglu", "the slope of the sigmoid is lost", "dg = dy * u * (s + change)", "dg = dy * u * s"),
    ("swiglu", "the gradients of the halves exchanged", "row * 2 * f + columns, dg.to(", "row * 2 * f + columns, du.to("),
    ("geglu", "the slope of the inner polynomial is lost", "change *= 1.5957691216057308 * (1.0 + 0.134145 * g * g)", "change *= 1.5957691216057308"),
    ("squared_relu", "the square is lost", "(above * above)", "(above)"),
    ("squared_relu", "the factor two is lost", "dx = 2.0 * ", "dx = 1.0 * "),
]  # fmt: skip


@pytest.mark.parametrize(("name", "right", "wrong"), [(n, r, w) for n, _, r, w in FAULTS], ids=[f[1] for f in FAULTS])
def test_a_fault_in_the_kernel_is_seen(name: str, right: str, wrong: str, tmp_path: Path) -> None:
    with planted("activations", right, wrong, tmp_path):
        assert differences(*PAIRS[name], [random(3, 2, 254)])


def test_a_last_dimension_that_is_not_two_halves_is_refused() -> None:
    for gated in (swiglu, geglu):
        with pytest.raises(AssertionError, match="must be two halves"):
            gated(random(2, 7))
