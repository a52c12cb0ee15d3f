"""The attention that trains, against its definition.

Shapes: s sequence, b micro batch, n query heads, g query groups, d head size.
"""

import pytest
import torch
from torch import Tensor

from fanal.kernels.attention import causal_attention
from fanal.kernels.reference import causal_grouped_attention
from tests.unit.kernels.flash_stand_ins import ASKED_FOR, put_in_place

FORWARD_BOUND = {torch.float32: 1e-6, torch.bfloat16: 2**-7}
BACKWARD_BOUND = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
"""Allowed difference from the definition in fp64, relative to the largest expected value. In bf16 the fused kernel
rounds probabilities and their gradients before they meet the values, which the definition does not: on a CPU the shapes
below differ by up to 2.7e-3 forward and 1.4e-2 backward (the definition in bf16 by 2.9e-3)."""

NUM_HEADS = 8
SHAPES = [  # s, b, g, d: every group count at one size, then odd sizes, one token, every head size
    (33, 2, 1, 64),
    (33, 2, 2, 64),
    (33, 2, 4, 64),
    (33, 2, 8, 64),
    (1, 3, 2, 64),
    (129, 1, 2, 128),
    (67, 1, 4, 48),
]


def inputs(seq_length: int, batch: int, num_groups: int, head_size: int, dtype: torch.dtype) -> list[Tensor]:
    """query, key, value, and a gradient for the output."""
    generator = torch.Generator().manual_seed(seq_length + num_groups)
    sizes = [(NUM_HEADS, head_size), (num_groups, head_size), (num_groups, head_size), (NUM_HEADS * head_size,)]
    return [torch.randn(seq_length, batch, *size, generator=generator).to(dtype) for size in sizes]


def run(operation, query: Tensor, key: Tensor, value: Tensor, upstream: Tensor) -> list[Tensor]:
    """The output, then the gradients of query, key and value."""
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    output = operation(*leaves)
    output.backward(upstream)
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def error(result: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return ((result.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-3)).item()


def expanded_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention with as many key/value heads as query heads and any mask [s, s], to plant faults in."""
    scores = torch.einsum("sbnd,tbnd->bnst", query.float(), key.float()) / query.shape[-1] ** 0.5
    probabilities = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("bnst,tbnd->sbnd", probabilities, value.float()).flatten(2).to(query.dtype)


@pytest.mark.parametrize("dtype", FORWARD_BOUND)
@pytest.mark.parametrize("shape", SHAPES)
def test_sdpa_equals_the_definition_forward_and_backward(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    tensors = inputs(*shape, dtype)
    results = run(lambda q, k, v: causal_attention(q, k, v, "sdpa"), *tensors)
    exact = run(causal_grouped_attention, *(tensor.double() for tensor in tensors))
    assert results[0].shape == (shape[0], shape[1], NUM_HEADS * shape[3])
    assert all(result.dtype == dtype for result in results)
    if shape[0] == 1:  # softmax of one score: query and key have no influence, so nothing to be relative to
        assert max(results[1].abs().max().item(), results[2].abs().max().item()) < 1e-2
        results, exact = [results[0], results[3]], [exact[0], exact[3]]
    errors = [error(result, expected) for result, expected in zip(results, exact, strict=True)]
    assert errors[0] < FORWARD_BOUND[dtype], errors
    assert max(errors[1:]) < BACKWARD_BOUND[dtype], errors


@pytest.mark.parametrize("dtype", FORWARD_BOUND)
def test_the_bound_catches_one_future_token_and_interleaved_groups(dtype: torch.dtype) -> None:
    query, key, value, upstream = inputs(129, 1, 2, 64, dtype)
    expected = run(causal_grouped_attention, *(t.double() for t in (query, key, value, upstream)))
    causal = torch.ones(129, 129, dtype=torch.bool).tril()
    leak = causal.clone()
    leak[100, 101] = True  # one position sees one token of its future
    repeats = NUM_HEADS // 2

    def blocked(mask: Tensor):
        return lambda q, k, v: expanded_attention(
            q, k.repeat_interleave(repeats, 2), v.repeat_interleave(repeats, 2), mask
        )

    def interleaved(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # head j reads group j % g
        return expanded_attention(q, k.repeat(1, 1, repeats, 1), v.repeat(1, 1, repeats, 1), causal)

    def errors(operation) -> list[float]:
        results = run(operation, query, key, value, upstream)
        return [error(result, wanted) for result, wanted in zip(results, expected, strict=True)]

    assert errors(blocked(causal))[0] < FORWARD_BOUND[dtype]  # the planting tool itself is right
    assert max(errors(blocked(causal))[1:]) < BACKWARD_BOUND[dtype]
    assert errors(blocked(leak))[0] > 4 * FORWARD_BOUND[dtype]
    assert errors(blocked(leak))[1] > 1.5 * BACKWARD_BOUND[dtype]  # each gradient of the leak alone is small in bf16
    assert min(errors(interleaved)) > 4 * BACKWARD_BOUND[dtype]


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_softmax_scale_replaces_the_default(backend: str) -> None:
    query, key, value, _ = inputs(17, 2, 2, 64, torch.float32)
    result = causal_attention(query, key, value, backend, softmax_scale=0.5)
    quadrupled = causal_grouped_attention(4 * query, key, value)  # 0.5 = 4 / sqrt(64)
    assert error(result, quadrupled) < FORWARD_BOUND[torch.float32]
    assert error(result, causal_grouped_attention(query, key, value)) > 0.1  # planted fault: the scale ignored
    default = causal_attention(query, key, value, backend)
    assert error(default, causal_grouped_attention(query, key, value)) < FORWARD_BOUND[torch.float32]


def test_views_into_a_fused_projection_give_the_same_result() -> None:
    fused = torch.randn(33, 2, 4, 4, 64, generator=torch.Generator().manual_seed(0))  # [s, b, g, n/g + 2, d]
    query, key, value = fused[:, :, :, :2].reshape(33, 2, 8, 64), fused[:, :, :, 2], fused[:, :, :, 3]
    assert not key.is_contiguous()
    copied = causal_attention(query, key.contiguous(), value.contiguous(), "sdpa")
    assert torch.equal(causal_attention(query, key, value, "sdpa"), copied)


def test_shapes_that_do_not_fit_are_refused() -> None:
    query, key, value, _ = inputs(5, 2, 4, 64, torch.float32)
    with pytest.raises(AssertionError, match=r"query must be \[q, b, n, d\]"):
        causal_attention(query[0], key, value, "sdpa")
    with pytest.raises(AssertionError, match=r"key .* and value .* must have the same shape"):
        causal_attention(query, key, value[:, :, :2], "sdpa")
    with pytest.raises(AssertionError, match="and s no less than its q"):
        causal_attention(query, key[:4], value[:4], "sdpa")
    with pytest.raises(AssertionError, match="with b and d of the query"):
        causal_attention(query[:3, :1], key, value, "sdpa")
    with pytest.raises(AssertionError, match=r"query heads \(8\) must be a multiple of key/value heads \(3\)"):
        causal_attention(query, key[:, :, :3], value[:, :, :3], "sdpa")


@pytest.mark.parametrize("backend", ["flash2", "flash3", "flash4", "varlen"])
def test_a_package_is_called_as_its_documentation_says(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, backend)
    query, key, value, _ = inputs(7, 2, 4, 16, torch.float32)
    for scale in (None, 0.5):
        expected = causal_grouped_attention(query, key, value, scale)
        assert torch.equal(causal_attention(query, key, value, backend, scale), expected)


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("backend", ["flash2", "flash3", "flash4"])
def test_a_flash_package_adds_up_in_order_when_torch_is_asked_to(
    backend: str, is_deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place(monkeypatch, backend)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: is_deterministic)
    query, key, value, _ = inputs(7, 2, 4, 16, torch.float32)
    ASKED_FOR.clear()
    causal_attention(query, key, value, backend)
    causal_attention(query, key, value, backend, document_starts=torch.tensor([0, 3, 7, 14], dtype=torch.int32))
    assert [{"deterministic": is_deterministic}] * 2 == ASKED_FOR
