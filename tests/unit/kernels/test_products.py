"""The matrix products of a linear layer against fp64, by whichever library they go. Shapes: s sequence, b micro batch, i inputs, o outputs."""

import pytest
import torch
from torch import Tensor

from fanal.kernels import products

SIZES = [(7, 3, 33, 65), (1, 1, 1, 1), (64, 2, 128, 96), (5, 1, 512, 3)]
BOUND = {torch.float32: 3e-6, torch.bfloat16: 2**-7}
"""Largest difference as a share of the largest number."""


@pytest.fixture(params=[False, True], ids=["torch's library", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both, whatever this machine would take."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param)


def inputs(size: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x [s, b, i], weight [o, i], and a gradient of the output [s, b, o]."""
    s, b, i, o = size
    generator = torch.Generator().manual_seed(sum(size))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in ((s, b, i), (o, i), (s, b, o)))  # type: ignore[return-value]


def close(result: Tensor, expected: Tensor) -> bool:
    return bool((result.double() - expected).abs().max() <= BOUND[result.dtype] * expected.abs().max())


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("size", SIZES)
def test_the_three_products_are_those_of_fp64(
    library: None, size: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    x, weight, gradient = inputs(size, dtype)
    wide_x, wide_weight, wide_gradient = (tensor.double() for tensor in (x, weight, gradient))
    expected = [
        wide_x @ wide_weight.t(),
        wide_gradient @ wide_weight,
        wide_gradient.flatten(0, 1).t() @ wide_x.flatten(0, 1),
    ]
    found = [
        products.linear(x, weight),
        products.input_gradient(gradient, weight),
        products.weight_gradient(gradient, x),
    ]
    assert [(tensor.shape, tensor.dtype) for tensor in found] == [(tensor.shape, dtype) for tensor in expected]
    assert all(close(one, other) for one, other in zip(found, expected, strict=True))
    if min(size[2:]) > 1:  # planted faults: another weight, another input
        assert not close(products.linear(x, weight.roll(1, 0)), expected[0])
        assert not close(products.weight_gradient(gradient, x.roll(1, -1)), expected[2])


def test_batched_products_are_those_of_fp64_for_one_pair_and_for_several(library: None) -> None:
    for pairs in (1, 3):
        left, right = torch.randn(pairs, 9, 17), torch.randn(pairs, 5, 17).transpose(1, 2)
        assert close(products.batched(left, right), left.double() @ right.double())


def test_matrices_with_gaps_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN takes a hundred times as long for them."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "_onednn", lambda *_: pytest.fail("a matrix with gaps went to oneDNN"))
    whole = torch.randn(8, 40)
    with_gaps = whole[:, :20]
    assert torch.equal(products.linear(with_gaps, torch.eye(20)), with_gaps)
    assert torch.equal(products.linear(torch.eye(20), with_gaps), with_gaps.t())


def test_a_gradient_is_added_to_an_fp32_sum_where_torch_has_such_a_product_and_nowhere_else() -> None:
    x, _, gradient = inputs((7, 3, 33, 65), torch.bfloat16)
    total = torch.ones(65, 33)
    assert not products.add_weight_gradient(total, gradient, x)  # not on a CPU
    assert torch.equal(total, torch.ones(65, 33))


def test_the_library_follows_from_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    cases = {("AVX512", "AuthenticAMD"): True, ("AVX512", "GenuineIntel"): False, ("AVX2", "AuthenticAMD"): False}
    for (instructions, vendor), expected in cases.items():
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=instructions: found)
        monkeypatch.setattr(products, "_processor", lambda found=vendor: found)
        assert products.onednn_is_faster.__wrapped__() is expected
