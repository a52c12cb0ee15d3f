"""Attention that keeps documents apart: every backend against the definition run on each document alone.

Shapes: s sequence, b micro batch, n query heads, g query groups, d head size.
"""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fanal.kernels import sdpa_attention
from fanal.kernels.attention import causal_attention
from fanal.kernels.reference import causal_grouped_attention, document_ids
from fanal.kernels.sdpa_cuda_attention import sdpa_on_cuda
from tests.unit.kernels.flash_stand_ins import put_in_place

NUM_HEADS, NUM_GROUPS, HEAD_SIZE = 4, 2, 16
FORWARD_BOUND = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
BACKWARD_BOUND = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
"""Relative to the largest expected value, the definition in fp64; see test_attention.py for bf16."""
FORMS = ["reference", "document by document", "masked", "flash2", "flash3", "flash4", "varlen"]


@pytest.fixture(params=FORMS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend, set up to take the form of the parameter."""
    put_in_place(monkeypatch, "flash2", "flash3", "flash4", "varlen")
    if request.param == "masked":  # what sdpa does off the CPU
        monkeypatch.setattr(sdpa_attention, "_document_by_document", sdpa_on_cuda)
        monkeypatch.setattr(
            sdpa_attention, "causal_blocks", lambda q, k, v, s, *rest: sdpa_on_cuda(q, k, v, s, None, *rest)
        )
    return "sdpa" if request.param in ("document by document", "masked") else request.param


def inputs(seq_length: int, batch: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """query, key, value, and a gradient for the output."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(NUM_HEADS, HEAD_SIZE), (NUM_GROUPS, HEAD_SIZE), (NUM_GROUPS, HEAD_SIZE), (NUM_HEADS * HEAD_SIZE,)]
    return [torch.randn(seq_length, batch, *size, generator=generator).to(dtype) for size in sizes]


def run(operation, query: Tensor, key: Tensor, value: Tensor, upstream: Tensor) -> list[Tensor]:
    """The output, then the gradients of query, key and value."""
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    output = operation(*leaves)
    output.backward(upstream)
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def each_document_alone(starts: list[int], tensors: list[Tensor]) -> list[Tensor]:
    """What ``run`` gives in fp64, one document after the other, nothing of any other in sight."""
    seq_length = tensors[0].shape[0]
    results = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in (tensors[3], *tensors[:3])]
    for first, end in pairwise(starts):
        row, here = first // seq_length, slice(first % seq_length, first % seq_length + end - first)
        alone = [tensor[here, row : row + 1].double() for tensor in tensors]
        for whole, part in zip(results, run(causal_grouped_attention, *alone), strict=True):
            whole[here, row : row + 1] = part
    return results


def errors(results: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Largest differences, relative to the largest expected values."""
    return [
        ((result.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-3)).item()
        for result, wanted in zip(results, expected, strict=True)
    ]


STARTS = [0, 1, 2, 30, 33, 66, 80, 98, 99]  # s 33, b 3: one token, two rows with cuts, one whole row, a last one-token


@pytest.mark.parametrize("dtype", FORWARD_BOUND)
def test_every_backend_equals_each_document_alone_forward_and_backward(backend: str, dtype: torch.dtype) -> None:
    tensors = inputs(33, 3, dtype)
    starts = torch.tensor(STARTS, dtype=torch.int32)
    results = run(lambda q, k, v: causal_attention(q, k, v, backend, document_starts=starts), *tensors)
    assert results[0].shape == (33, 3, NUM_HEADS * HEAD_SIZE) and all(result.dtype == dtype for result in results)
    found = errors(results, each_document_alone(STARTS, tensors))
    assert found[0] < FORWARD_BOUND[dtype] and max(found[1:]) < BACKWARD_BOUND[dtype], found


def test_the_bounds_catch_a_boundary_that_is_one_token_off_or_missing(backend: str) -> None:
    tensors = inputs(33, 3, torch.bfloat16)
    expected = each_document_alone(STARTS, tensors)
    for wrong in ([0, 1, 2, 31, *STARTS[4:]], [*STARTS[:6], *STARTS[7:]]):
        starts = torch.tensor(wrong, dtype=torch.int32)
        results = run(lambda q, k, v, s=starts: causal_attention(q, k, v, backend, document_starts=s), *tensors)
        assert min(errors(results, expected)) > 2 * BACKWARD_BOUND[torch.bfloat16]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seq_length=st.integers(1, 12), batch=st.integers(1, 3))
@pytest.mark.parametrize("form", ["reference", "document by document", "masked"])
def test_random_boundaries_give_what_each_document_gives_alone(
    form: str, data: st.DataObject, seq_length: int, batch: int
) -> None:
    inside = data.draw(st.sets(st.integers(0, batch * seq_length)))
    starts = sorted(inside | set(range(0, batch * seq_length + 1, seq_length)))
    tensors = inputs(seq_length, batch, torch.float32, seed=len(starts))
    operation = {
        "reference": causal_grouped_attention,
        "document by document": sdpa_attention._document_by_document,
        "masked": sdpa_on_cuda,
    }[form]
    results = run(
        lambda q, k, v: operation(q, k, v, None, torch.tensor(starts, dtype=torch.int32), None, None).reshape(
            tensors[3].shape
        ),
        *tensors,
    )
    # Not relative: the gradients of one-token documents are zero, up to the rounding of values of size 1.
    for result, expected in zip(results, each_document_alone(starts, tensors), strict=True):
        torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-5)


def test_documents_may_not_be_seen_across_even_with_infinite_scores(backend: str) -> None:
    query, key, value, _ = inputs(8, 1, torch.float32)
    starts = torch.tensor([0, 5, 8], dtype=torch.int32)
    calm = causal_attention(query, key, value, backend, document_starts=starts)
    key[:5] *= 1e4
    value[:5] *= 1e4
    loud = causal_attention(query, key, value, backend, document_starts=starts)
    assert torch.equal(loud[5:], calm[5:]) and not torch.equal(loud[1:5], calm[1:5])


def test_softmax_scale_replaces_the_default_in_documents_too(backend: str) -> None:
    query, key, value, _ = inputs(8, 2, torch.float32)
    starts = torch.tensor([0, 5, 8, 16], dtype=torch.int32)
    scaled = causal_attention(query, key, value, backend, softmax_scale=0.5, document_starts=starts)
    doubled = causal_attention(2 * query, key, value, backend, document_starts=starts)  # 0.5 = 2 / sqrt(16)
    torch.testing.assert_close(scaled, doubled)


def test_one_document_per_row_is_plain_causal_attention(backend: str) -> None:
    query, key, value, _ = inputs(8, 2, torch.float32)
    starts = torch.tensor([0, 8, 16], dtype=torch.int32)
    plain = causal_grouped_attention(query, key, value)
    torch.testing.assert_close(causal_attention(query, key, value, backend, document_starts=starts), plain)


def test_starts_of_another_type_are_refused() -> None:
    query, key, value, _ = inputs(8, 1, torch.float32)
    with pytest.raises(
        AssertionError, match=r"document_starts must be int32 \[documents \+ 1\], got torch.int64 \(2,\)"
    ):
        causal_attention(query, key, value, "sdpa", document_starts=torch.tensor([0, 8]))


def test_document_ids_count_through_the_rows() -> None:
    starts = torch.tensor([0, 2, 4, 7, 8], dtype=torch.int32)
    assert document_ids(starts, 2, 4).tolist() == [[0, 0, 1, 1], [2, 2, 2, 3]]
