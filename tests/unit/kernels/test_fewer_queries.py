"""Fewer queries than keys, those of the last positions: every backend against the definition of all queries, of which the last count.

Shapes: q queries of s positions, b micro batch, n query heads, g query groups, d head size.
"""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fanal.kernels import (
    attention_blocks,
    causal_blocks,
    flash_packages,
    sdpa_attention,
    sdpa_cuda_attention,
    varlen_attention,
)
from fanal.kernels.attention import causal_attention
from fanal.kernels.packing import query_starts
from fanal.kernels.reference import causal_grouped_attention
from fanal.kernels.sdpa_cuda_attention import sdpa_on_cuda
from tests.unit.kernels.flash_stand_ins import ALIGNED, TorchOnCuda, put_in_place
from tests.unit.kernels.test_document_attention import errors, inputs, run

FORWARD_BOUND = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
BACKWARD_BOUND = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
"""Relative to the largest expected value, the definition in fp64; see test_attention.py for bf16."""
SEQ_LENGTH = 33
STARTS = {1: [0, 1, 2, 2, 30, 33], 3: [0, 1, 2, 30, 33, 66, 66, 80, 98, 99]}
"""By batch: documents that end before the last 10 positions, cross into them and lie among them, a whole row, some without a token."""
ON_CUDA = "sdpa off the CPU"
PACKED = ("flash2", "flash3", "flash4", "varlen")


@pytest.fixture(params=["reference", "sdpa", ON_CUDA, *PACKED])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend, set up to take the form of the parameter, in blocks so short that there are several."""
    set_up(request.param, monkeypatch)
    return request.param


def set_up(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, *PACKED)
    monkeypatch.setattr(causal_blocks, "ROWS", 10)
    monkeypatch.setattr(causal_blocks, "MIN_QUERIES", 4)
    monkeypatch.setattr(causal_blocks, "SCORES", 500)
    monkeypatch.setattr(attention_blocks, "MIN_BLOCK", 4)
    monkeypatch.setattr(attention_blocks, "CAPPED_BLOCK", 5)
    if form == ON_CUDA:
        monkeypatch.setattr(sdpa_attention, "_document_by_document", sdpa_on_cuda)
        monkeypatch.setattr(
            sdpa_attention, "causal_blocks", lambda q, k, v, s, *rest: sdpa_on_cuda(q, k, v, s, None, *rest)
        )


def compare(
    form: str, tensors: list[Tensor], num_queries: int, expected: list[Tensor], **options: object
) -> list[float]:
    """Errors of the output and of the gradients of query, key and value."""
    query, key, value, upstream = tensors
    with TorchOnCuda() if form == ON_CUDA else nullcontext():
        found = run(
            lambda q, k, v: causal_attention(q, k, v, form.split()[0], **options),
            *(query[-num_queries:], key, value, upstream[-num_queries:]),
        )
    assert [result.dtype for result in found] == [query.dtype] * 4
    return errors(found, expected)


def definition(tensors: list[Tensor], num_queries: int, **options: object) -> list[Tensor]:
    """What the definition gives for all queries, where nothing comes back from those before the last ones."""
    query, key, value, upstream = (tensor.double() for tensor in tensors)
    upstream[:-num_queries] = 0
    output, for_query, *rest = run(
        lambda q, k, v: causal_grouped_attention(q, k, v, **options), query, key, value, upstream
    )
    assert not for_query[:-num_queries].any()
    return [output[-num_queries:], for_query[-num_queries:], *rest]


def starts_of(batch: int, *, documents: bool) -> Tensor | None:
    return torch.tensor(STARTS[batch], dtype=torch.int32) if documents else None


@pytest.mark.parametrize("dtype", FORWARD_BOUND)
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("batch", STARTS)
def test_every_backend_equals_the_last_queries_of_the_definition(
    form: str, batch: int, documents: bool, dtype: torch.dtype
) -> None:
    tensors = inputs(SEQ_LENGTH, batch, dtype)
    options = {"document_starts": starts_of(batch, documents=documents)}
    for num_queries in (1, 2, 10, 32, 33):
        found = compare(form, tensors, num_queries, definition(tensors, num_queries, **options), **options)
        assert found[0] < FORWARD_BOUND[dtype] and max(found[1:]) < BACKWARD_BOUND[dtype], (num_queries, found)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_windows_and_caps_end_where_the_keys_do(form: str, soft_cap: float | None, documents: bool) -> None:
    if form == "varlen" and soft_cap is not None:
        return  # refused: torch's kernel takes none
    tensors = inputs(SEQ_LENGTH, 3, torch.float32)
    for window in (2, 7, 23, 24, 32, None):
        options = {"document_starts": starts_of(3, documents=documents), "window": window, "soft_cap": soft_cap}
        for num_queries in (9, 10, 17):
            expected = definition(tensors, num_queries, **options)
            found = compare(form, tensors, num_queries, expected, **options)
            assert found[0] < 2e-6 and max(found[1:]) < 3e-6, (window, num_queries, found)
            if window == 7:  # planted faults: a window one too short, one too long
                for wrong in (6, 8):
                    off = compare(form, tensors, num_queries, expected, **(options | {"window": wrong}))
                    assert off[0] > 1e-3 and min(off[1:]) > 1e-3, (wrong, off)


@pytest.mark.parametrize("num_groups", [1, 4])
def test_one_group_and_as_many_as_heads(form: str, num_groups: int) -> None:
    query, key, value, upstream = inputs(SEQ_LENGTH, 2, torch.float32)
    key, value = (
        torch.randn(SEQ_LENGTH, 2, num_groups, 16, generator=torch.Generator().manual_seed(i)) for i in (5, 6)
    )
    tensors = [query, key, value, upstream]
    found = compare(form, tensors, 12, definition(tensors, 12))
    assert max(found) < 3e-6, found


def test_a_document_without_a_query_gives_its_keys_gradients_of_zero(form: str) -> None:
    query, key, value, upstream = inputs(SEQ_LENGTH, 1, torch.float32)
    starts = torch.tensor([0, 5, 20, 33], dtype=torch.int32)
    with TorchOnCuda() if form == ON_CUDA else nullcontext():
        _, _, for_key, for_value = run(
            lambda q, k, v: causal_attention(q, k, v, form.split()[0], document_starts=starts),
            *(query[-10:], key, value, upstream[-10:]),
        )
    for gradient in (for_key, for_value):
        assert not gradient[:20].any() and gradient[20:].any(dim=3).all()


def aligned_to_the_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant the alignment that torch's is_causal has, and flash-attn had before 2.1."""
    blocks_of = attention_blocks._blocks

    def from_the_start(num_queries: int, seq_length: int, *rest) -> list[attention_blocks.Block]:
        return blocks_of(num_queries, num_queries, *rest)

    {
        "the packages": lambda: monkeypatch.setitem(ALIGNED, "to", "start"),
        "torch's flash kernel": lambda: monkeypatch.setitem(ALIGNED, "to", "start"),
        "torch's efficient kernel": lambda: monkeypatch.setattr(sdpa_cuda_attention, "_TO_THE_END", 1),
        "is_causal": lambda: monkeypatch.setattr(
            sdpa_cuda_attention, "_causal_to_the_end", sdpa_cuda_attention._causal
        ),
        "blocks on a GPU": lambda: monkeypatch.setattr(attention_blocks, "_blocks", from_the_start),
    }[name]()


@pytest.mark.parametrize(
    ("form", "name", "dtype", "window"),
    [
        *((form, "the packages", torch.float32, None) for form in PACKED),
        *((form, "the packages", torch.float32, 7) for form in PACKED),
        (ON_CUDA, "torch's flash kernel", torch.bfloat16, None),
        (ON_CUDA, "torch's efficient kernel", torch.float32, None),
        (ON_CUDA, "is_causal", torch.bfloat16, None),
        (ON_CUDA, "is_causal", torch.float32, None),
        (ON_CUDA, "blocks on a GPU", torch.float32, 7),
    ],
)
def test_the_bounds_catch_an_alignment_to_the_start(
    form: str, name: str, dtype: torch.dtype, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(form, monkeypatch)
    tensors = inputs(SEQ_LENGTH, 2, dtype)
    expected = definition(tensors, 10, window=window)
    assert max(compare(form, tensors, 10, expected, window=window)) < BACKWARD_BOUND[dtype]
    aligned_to_the_start(name, monkeypatch)
    assert min(compare(form, tensors, 10, expected, window=window)) > 10 * BACKWARD_BOUND[dtype]


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("form", ["sdpa", *PACKED])
def test_the_bounds_catch_documents_whose_first_query_is_one_off(
    form: str, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(document_starts: Tensor, *, num_keys: int, num_queries: int) -> Tensor:
        starts = query_starts(document_starts, num_keys=num_keys, num_queries=num_queries).clone()
        starts[which] += 1
        return starts

    set_up(form, monkeypatch)
    tensors, starts = inputs(SEQ_LENGTH, 1, torch.bfloat16), torch.tensor([0, 20, 28, 33], dtype=torch.int32)
    expected = definition(tensors, 10, document_starts=starts)
    for module in (flash_packages, varlen_attention, sdpa_attention):
        monkeypatch.setattr(module, "query_starts", off)
    found = compare(form, tensors, 10, expected, document_starts=starts)
    assert min(found) > 4 * BACKWARD_BOUND[torch.bfloat16], found


def test_first_queries_of_documents() -> None:
    starts = torch.tensor([0, 3, 3, 9, 12, 24, 30, 36], dtype=torch.int32)  # s 12, b 3
    assert query_starts(starts, num_keys=12, num_queries=5).tolist() == [0, 0, 0, 2, 5, 10, 10, 15]
    assert query_starts(starts, num_keys=12, num_queries=5).dtype == torch.int32
    assert query_starts(starts, num_keys=12, num_queries=12) is starts


CALLS: dict[str, Callable[[], list[Tensor]]] = {
    "bf16, heads of 20": lambda: fake(torch.bfloat16, 20),
    "fp32": lambda: fake(torch.float32, 32),
}


def fake(dtype: torch.dtype, head_size: int) -> list[Tensor]:
    sizes = ((10, 8), (64, 2), (64, 2))
    return [torch.empty(length, 2, heads, head_size, dtype=dtype, requires_grad=True) for length, heads in sizes]


@pytest.mark.parametrize("name", CALLS)
def test_torch_itself_takes_the_calls_of_its_kernels_on_fake_tensors(name: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        query, key, value = CALLS[name]()
        output = sdpa_on_cuda(query, key, value, None, None, None, None)
        assert output.shape == query.shape and output.dtype == query.dtype and output.grad_fn is not None
        if (
            query.dtype is torch.bfloat16
        ):  # torch 2.13.0 has no shapes of the efficient kernel's backward: rehearsals stand in
            output.sum().backward()
            assert query.grad is not None and query.grad.shape == query.shape
            assert key.grad is not None and key.grad.shape == key.shape


def test_torch_itself_takes_the_calls_of_varlen_on_fake_tensors() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        query, key, value = fake(torch.bfloat16, 32)
        starts = torch.empty(5, dtype=torch.int32)
        output = causal_attention(query, key, value, "varlen", document_starts=starts)
        assert output.shape == (10, 2, 8 * 32)
        output.sum().backward()
        assert query.grad is not None and query.grad.shape == query.shape
        assert key.grad is not None and key.grad.shape == key.shape
