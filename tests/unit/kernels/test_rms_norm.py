"""The normalisation that trains, against its definition. Shapes: s sequence, b micro batch, h hidden."""

import pytest
import torch
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.rms_norm import rms_norm

EPS = 1e-5
BOUND = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
"""Allowed difference relative to the value: a few roundings in fp32; in bf16 one unit in the last place, for an
implementation that sums in another order and so rounds a few results to the other side."""


def inputs(*size: int, dtype: torch.dtype, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """x and an upstream gradient of the given size, and a weight far from one."""
    generator = torch.Generator().manual_seed(sum(size))
    x, upstream = scale * torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    weight = 1.0 + 0.3 * torch.randn(size[-1], generator=generator)
    return x.to(dtype), weight.to(dtype), upstream.to(dtype)


def close(result: Tensor, expected: Tensor, bound: float, atol: float = 0.0) -> bool:
    return torch.allclose(result.double(), expected.double(), rtol=bound, atol=atol)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("size", [(1, 1, 64), (7, 3, 127), (5, 2, 1024), (3, 1)])
def test_forward_equals_the_definition(size: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, _ = inputs(*size, dtype=dtype)
    result = rms_norm(x, weight, EPS)
    assert result.dtype == dtype
    assert close(result, reference.rms_norm(x, weight, EPS), BOUND[dtype])


@pytest.mark.parametrize("dtype", BOUND)
def test_backward_equals_the_definition(dtype: torch.dtype) -> None:
    x, weight, upstream = inputs(7, 3, 127, dtype=dtype)
    gradients = {}
    for name, operation in (("torch", rms_norm), ("definition", reference.rms_norm)):
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        operation(*leaves, EPS).backward(upstream)
        gradients[name] = [leaf.grad for leaf in leaves]
    for result, expected in zip(gradients["torch"], gradients["definition"], strict=True):
        # Terms cancel in both gradients, so the bound is relative to the largest entry as well.
        atol = BOUND[dtype] * expected.abs().max().item()
        assert close(result, expected, BOUND[dtype], atol)
        assert not close(0.97 * result, expected, BOUND[dtype], atol)  # planted fault: off by 3 percent


@pytest.mark.parametrize("dtype", BOUND)
def test_the_bound_catches_a_missing_eps_and_a_missing_weight(dtype: torch.dtype) -> None:
    x, weight, _ = inputs(7, 3, 128, dtype=dtype, scale=0.01)  # mean square 1e-4: eps is a tenth of it
    expected = reference.rms_norm(x, weight, EPS)
    assert close(rms_norm(x, weight, EPS), expected, BOUND[dtype])
    assert not close(rms_norm(x, weight, 0.0), expected, BOUND[dtype])
    assert not close(rms_norm(x, torch.ones_like(weight), EPS), expected, BOUND[dtype])


def test_the_bf16_bound_catches_statistics_in_bf16() -> None:
    x, weight, _ = inputs(33, 3, 1024, dtype=torch.bfloat16)
    narrow = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * weight
    assert not close(narrow, reference.rms_norm(x, weight, EPS), BOUND[torch.bfloat16])


def test_gradients_match_finite_differences() -> None:
    x, weight, _ = inputs(3, 2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, EPS), (x.requires_grad_(), weight.requires_grad_()))


def test_shapes_and_dtypes_that_do_not_fit_are_refused() -> None:
    x, weight, _ = inputs(3, 2, 6, dtype=torch.float32)
    with pytest.raises(AssertionError, match=r"weight \(5,\) must match the last dim of x \(3, 2, 6\)"):
        rms_norm(x, weight[:5], EPS)
    with pytest.raises(AssertionError, match="one dtype"):
        rms_norm(x, weight.bfloat16(), EPS)
