"""Layer normalisation, and both norms with weights around zero, against their definitions and against transformers.

Shapes: s sequence, b micro batch, h hidden.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.layer_norm import layer_norm
from fanal.kernels.rms_norm import rms_norm

EPS = 1e-5
BOUND = {torch.float32: 4e-6, torch.bfloat16: 2**-7}
"""Relative to the value, plus as much of a unit (the outputs are of size one): terms cancel, so a small value carries the
roundings of larger ones. In bf16 one unit in the last place."""
SIZES = [(1, 1, 64), (7, 3, 127), (5, 2, 1024), (3, 2)]


def inputs(size: tuple[int, ...], dtype: torch.dtype, centre: float = 1.0) -> list[Tensor]:
    """x, weight around ``centre``, bias."""
    generator = torch.Generator().manual_seed(sum(size))
    x = 3 * torch.randn(size, generator=generator) + 0.5
    weight, bias = (0.3 * torch.randn(size[-1], generator=generator) for _ in range(2))
    return [x.to(dtype), (centre + weight).to(dtype), bias.to(dtype)]


def run(operation: Callable[..., Tensor], tensors: list[Tensor], *options: object) -> list[Tensor]:
    """The output, then the gradient of each input."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = operation(*leaves, *options)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(output.dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def close(results: list[Tensor], expected: list[Tensor], bound: float) -> list[bool]:
    return [
        torch.allclose(r.double(), e.double(), rtol=bound, atol=bound * max(1.0, e.abs().max().item()))
        for r, e in zip(results, expected, strict=True)
    ]


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("zero_centered", [False, True])
def test_layer_norm_equals_the_definition(size: tuple[int, ...], dtype: torch.dtype, zero_centered: bool) -> None:
    tensors = inputs(size, dtype, centre=0.0 if zero_centered else 1.0)
    if size[-1] == 2:  # (x - mean) / deviation of two values is 1 and -1: the gradient of x is all rounding
        tensors[0][..., 0] *= 0.01
    for given in (tensors, tensors[:2]):  # with and without a bias
        bias = () if len(given) == 3 else (None,)
        results = run(layer_norm, given, *bias, EPS, zero_centered)
        expected = run(reference.layer_norm, given, *bias, EPS, zero_centered)
        assert all(result.dtype == dtype for result in results)
        assert all(close(results, expected, BOUND[dtype]))
        assert not close([1.03 * results[0]], expected[:1], BOUND[dtype])[0]  # planted fault: off by 3 percent


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("size", SIZES)
def test_rms_norm_with_weights_around_zero_equals_the_definition(size: tuple[int, ...], dtype: torch.dtype) -> None:
    tensors = inputs(size, dtype, centre=0.0)[:2]
    results, expected = (run(operation, tensors, EPS, True) for operation in (rms_norm, reference.rms_norm))
    assert all(result.dtype == dtype for result in results)
    assert all(close(results, expected, BOUND[dtype]))
    assert not close(run(rms_norm, tensors, EPS), expected, BOUND[dtype])[0]  # planted fault: no one added


def test_bf16_weights_near_zero_are_not_lost_in_the_sum_with_one() -> None:
    x, weight, bias = inputs((33, 3, 512), torch.bfloat16, centre=0.0)
    weight *= 0.01  # 1 + 0.003 is one in bf16, half of the time
    for found, defined, rounded in (
        (rms_norm(x, weight, EPS, True), reference.rms_norm(x, weight, EPS, True), reference.rms_norm(x, weight + 1, EPS)),
        (layer_norm(x, weight, bias, EPS, True), reference.layer_norm(x, weight, bias, EPS, True), reference.layer_norm(x, weight + 1, bias, EPS)),
    ):  # fmt: skip
        wrong = [(y != defined).double().mean().item() for y in (found, rounded)]
        assert wrong[0] < 0.01 and wrong[1] > 0.1, wrong


def test_norms_are_those_of_gemma_2_and_nemotron() -> None:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P

    x, weight, bias = inputs((7, 3, 127), torch.float32, centre=0.0)
    gemma, nemotron = Gemma2RMSNorm(127, eps=EPS), NemotronLayerNorm1P(127, eps=EPS)
    gemma.load_state_dict({"weight": weight})
    nemotron.load_state_dict({"weight": weight, "bias": bias})
    assert all(close([rms_norm(x, weight, EPS, True)], [gemma(x).detach()], BOUND[torch.float32]))
    assert all(close([layer_norm(x, weight, bias, EPS, True)], [nemotron(x).detach()], BOUND[torch.float32]))
    narrow = Gemma2RMSNorm(127, eps=EPS).bfloat16()
    narrow.load_state_dict({"weight": weight})
    assert torch.equal(rms_norm(x.bfloat16(), weight.bfloat16(), EPS, True), narrow(x.bfloat16()))


def test_a_norm_in_fp32_holds_its_narrow_inputs_alone() -> None:
    x, weight, bias = inputs((33, 3, 512), torch.bfloat16, centre=0.0)
    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        layer_norm(x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), EPS, True)
    assert [tensor.dtype for tensor in held] == [torch.bfloat16] * 3
    assert {tensor.data_ptr() for tensor in held} == {tensor.data_ptr() for tensor in (x, weight, bias)}


def test_gradients_match_finite_differences() -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in inputs((3, 2, 5), torch.float64))
    for operation in (layer_norm, reference.layer_norm):
        assert torch.autograd.gradcheck(lambda x, w, b, f=operation: f(x, w, b, EPS, True), (x, weight, bias))
        assert torch.autograd.gradcheck(lambda x, w, f=operation: f(x, w, None, EPS), (x, weight))
    for operation in (rms_norm, reference.rms_norm):
        assert torch.autograd.gradcheck(lambda x, w, f=operation: f(x, w, EPS, True), (x, weight))


def test_shapes_and_dtypes_that_do_not_fit_are_refused() -> None:
    x, weight, bias = inputs((3, 2, 6), torch.float32)
    with pytest.raises(AssertionError, match=r"weight \(5,\) must match the last dim of x \(3, 2, 6\)"):
        layer_norm(x, weight[:5], bias, EPS)
    with pytest.raises(AssertionError, match=r"bias \(5,\) must match"):
        layer_norm(x, weight, bias[:5], EPS)
    with pytest.raises(AssertionError, match="one dtype"):
        layer_norm(x, weight, bias.bfloat16(), EPS)
