"""The output layer with its cross entropy in chunks, against its definition. Shapes: s sequence, b micro batch, h hidden, v vocabulary."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fanal.kernels import cross_entropy, reference
from fanal.kernels.linear_cross_entropy import WeightSum, linear_cross_entropy

BOUND = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float64: 1e-12}
"""Largest difference as a share of the largest number; in bf16 logits and their gradients are rounded."""


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(7, 3, 16, generator=generator), torch.randn(40, 16, generator=generator)
    return hidden.to(dtype), weight.to(dtype), torch.randint(0, 30, (7, 3), generator=generator)


def run(operation, hidden: Tensor, weight: Tensor) -> list[Tensor]:
    """Both outputs, then the gradients of hidden and weight."""
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    outputs = operation(*leaves)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in outputs]
    return [*(out.detach() for out in outputs), *torch.autograd.grad(outputs, leaves, upstream)]


def close(results: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> bool:
    return all(
        bool((one.double() - other.double()).abs().max() <= BOUND[dtype] * other.double().abs().max())
        for one, other in zip(results, expected, strict=True)
    )


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(("columns", "soft_cap"), [(40, None), (33, 2.0)])
def test_chunks_of_any_size_equal_the_definition(columns: int, soft_cap: float | None, dtype: torch.dtype) -> None:
    hidden, weight, labels = inputs(dtype)

    def defined(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        logits = (hidden @ weight.t())[..., :columns]
        real = logits if soft_cap is None else reference.soft_cap(logits, soft_cap)
        return reference.cross_entropy(real, labels), real.logsumexp(dim=-1)

    expected = run(defined, hidden.double(), weight.double())
    for chunk in (1, 5, 21, 1000):
        options = {"chunk": chunk, "columns": columns, "soft_cap": soft_cap}
        found = run(lambda h, w, o=options: linear_cross_entropy(h, w, labels, None, **o), hidden, weight)
        assert [out.dtype for out in found[2:]] == [dtype, dtype] and close(found, expected, dtype)
        if dtype is torch.float32:  # planted faults: other labels, a column less, another cap
            for wrong in (
                lambda h, w, o=options: linear_cross_entropy(h, w, labels.roll(1, 0), None, **o),
                lambda h, w, o=options: linear_cross_entropy(h, w, labels, None, **{**o, "columns": columns - 1}),
                lambda h, w, o=options: linear_cross_entropy(h, w, labels, None, **{**o, "soft_cap": 3.0}),
            ):
                assert not close(run(wrong, hidden, weight), expected, dtype)


def test_no_more_logits_than_a_chunk_are_made_and_none_are_held() -> None:
    hidden, weight, labels = inputs(torch.float32)
    made: list[int] = []
    held: list[Tensor] = []
    real = cross_entropy.TORCH
    passes = replace(real, statistics=lambda rows, *rest: made.append(len(rows)) or real.statistics(rows, *rest))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), labels, None, chunk=5, passes=passes)
    assert made == [5, 5, 5, 5, 1]
    assert [tuple(tensor.shape) for tensor in held] == [(7, 3, 16), (40, 16), (21,), (21,)]


class AddedElsewhere(WeightSum):
    """A sum that its owner keeps, to which chunks are added at once."""

    def __init__(self, weight: Tensor, total: Tensor) -> None:
        self.weight, self.total = weight, total

    def gradient(self) -> Tensor:
        return torch.zeros_like(self.weight)


@pytest.mark.parametrize("chunk", [5, 1000])
def test_the_gradient_of_the_weight_is_added_where_its_owner_wants_it(chunk: int) -> None:
    hidden, weight, labels = inputs(torch.float32)
    *_, expected = run(lambda h, w: linear_cross_entropy(h, w, labels, None, chunk=chunk), hidden, weight)
    total = torch.ones_like(weight)
    *_, returned = run(
        lambda h, w: linear_cross_entropy(
            h, w, labels, None, chunk=chunk, weight_sum=lambda weight: AddedElsewhere(weight, total)
        ),
        hidden,
        weight,
    )
    assert not returned.any()
    assert close([total - 1], [expected], torch.float32) and not close([total], [expected], torch.float32)


def test_what_does_not_fit_is_refused() -> None:
    hidden, weight, labels = inputs(torch.float32)
    with pytest.raises(AssertionError, match=r"labels \(3, 7\) must fit hidden \(7, 3, 16\)"):
        linear_cross_entropy(hidden, weight, labels.T, None, chunk=5)
    with pytest.raises(AssertionError, match=r"chunk \(0\) must be at least one token"):
        linear_cross_entropy(hidden, weight, labels, None, chunk=0)
