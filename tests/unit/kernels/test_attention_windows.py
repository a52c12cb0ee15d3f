"""Attention with a window and with a cap on the scores: every backend and form against the definition, and Gemma 2's.

Shapes: s sequence, b micro batch, n query heads, g query groups, d head size.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fanal.kernels import attention_blocks, causal_blocks, sdpa_attention
from fanal.kernels.attention import causal_attention
from fanal.kernels.reference import causal_grouped_attention
from fanal.kernels.sdpa_cuda_attention import sdpa_on_cuda
from tests.unit.kernels.flash_stand_ins import put_in_place
from tests.unit.kernels.test_document_attention import errors, inputs, run

FORWARD_BOUND = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
BACKWARD_BOUND = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
"""Relative to the largest expected value, the definition in fp64; see test_attention.py for bf16."""
SEQ_LENGTH = 33
STARTS = [0, 1, 2, 30, 33, 66, 80, 98, 99]  # s 33, b 3: documents of one token, across window edges, of a whole row


@pytest.fixture(params=["reference", "sdpa", "sdpa off the CPU", "flash2", "flash3", "flash4"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend, set up to take the form of the parameter, in blocks so short that there are several."""
    if request.param == "sdpa off the CPU":
        monkeypatch.setattr(sdpa_attention, "_document_by_document", sdpa_on_cuda)
        monkeypatch.setattr(
            sdpa_attention, "causal_blocks", lambda q, k, v, s, *rest: sdpa_on_cuda(q, k, v, s, None, *rest)
        )
    monkeypatch.setattr(causal_blocks, "ROWS", 10)
    monkeypatch.setattr(causal_blocks, "MIN_QUERIES", 4)
    monkeypatch.setattr(causal_blocks, "SCORES", 500)
    monkeypatch.setattr(attention_blocks, "MIN_BLOCK", 4)
    monkeypatch.setattr(attention_blocks, "CAPPED_BLOCK", 5)
    put_in_place(monkeypatch, "flash2", "flash3", "flash4")
    return request.param.split()[0]


def compare(backend: str, tensors: list[Tensor], expected: list[Tensor], **options: object) -> list[float]:
    return errors(run(lambda q, k, v: causal_attention(q, k, v, backend, **options), *tensors), expected)


def definition(tensors: list[Tensor], **options: object) -> list[Tensor]:
    return run(lambda q, k, v: causal_grouped_attention(q, k, v, **options), *(tensor.double() for tensor in tensors))


@pytest.mark.parametrize("dtype", FORWARD_BOUND)
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_every_backend_equals_the_definition_at_every_edge_of_a_window(
    backend: str, soft_cap: float | None, documents: bool, dtype: torch.dtype
) -> None:
    tensors = inputs(SEQ_LENGTH, 3, dtype)
    starts = torch.tensor(STARTS, dtype=torch.int32) if documents else None
    for window in (2, 7, SEQ_LENGTH - 1, SEQ_LENGTH, SEQ_LENGTH + 1, None):
        options = {"document_starts": starts, "window": window, "soft_cap": soft_cap}
        expected = definition(tensors, **options)
        found = compare(backend, tensors, expected, **options)
        assert found[0] < FORWARD_BOUND[dtype] and max(found[1:]) < BACKWARD_BOUND[dtype], (window, found)
        if window == 7:  # planted faults: a window one too short, one too long
            for wrong in (window - 1, window + 1):
                off = compare(backend, tensors, expected, **(options | {"window": wrong}))
                assert off[0] > 4 * FORWARD_BOUND[dtype] and max(off[1:]) > 2 * BACKWARD_BOUND[dtype], (wrong, off)
        if soft_cap is not None and window == 7:  # planted fault: no cap
            uncapped = compare(backend, tensors, expected, **(options | {"soft_cap": None}))
            assert uncapped[0] > 4 * FORWARD_BOUND[dtype] and max(uncapped[1:]) > 2 * BACKWARD_BOUND[dtype]


def test_a_window_of_one_sees_itself_alone(backend: str) -> None:
    query, key, value, upstream = inputs(SEQ_LENGTH, 2, torch.float32)
    output, for_query, for_key, _ = run(
        lambda q, k, v: causal_attention(q, k, v, backend, window=1), query, key, value, upstream
    )
    assert torch.equal(output, value.repeat_interleave(2, dim=2).flatten(2))
    assert max(for_query.abs().max(), for_key.abs().max()) < 3e-6  # the difference of two sums that are equal


def test_what_lies_outside_the_window_has_no_influence_even_with_infinite_scores(backend: str) -> None:
    query, key, value, _ = inputs(SEQ_LENGTH, 1, torch.float32)
    calm = causal_attention(query, key, value, backend, window=5)
    key[:10] *= 1e4
    value[:10] *= 1e4
    loud = causal_attention(query, key, value, backend, window=5)
    assert torch.equal(loud[14:], calm[14:]) and not torch.equal(loud[13], calm[13])  # 13 sees 9, 14 does not


def test_softmax_scale_comes_before_the_cap(backend: str) -> None:
    query, key, value, _ = inputs(SEQ_LENGTH, 2, torch.float32)
    found = causal_attention(query, key, value, backend, softmax_scale=0.5, window=9, soft_cap=1.5)
    doubled = causal_grouped_attention(2 * query, key, value, window=9, soft_cap=1.5)  # 0.5 = 2 / sqrt(16)
    torch.testing.assert_close(found, doubled)
    assert not torch.allclose(found, causal_grouped_attention(query, key, value, window=9, soft_cap=3.0))


@pytest.mark.parametrize(("window", "soft_cap"), [(200, None), (64, None), (200, 20.0), (None, 20.0), (1, None)])
def test_blocks_of_the_size_that_trains_equal_the_definition(window: int | None, soft_cap: float | None) -> None:
    tensors = inputs(531, 1, torch.float32)  # the last block is odd
    expected = definition(tensors, window=window, soft_cap=soft_cap)
    found = compare("sdpa", tensors, expected, window=window, soft_cap=soft_cap)
    if window == 1:  # query and key have no influence: nothing to be relative to
        found = [found[0], found[3]]
    assert found[0] < FORWARD_BOUND[torch.float32] and max(found) < BACKWARD_BOUND[torch.float32], found


def test_gradients_of_blocks_match_finite_differences() -> None:
    tensors = [tensor.requires_grad_() for tensor in inputs(70, 1, torch.float64)[:3]]
    for options in ({"window": 2}, {"window": 66, "soft_cap": 0.7}):
        assert torch.autograd.gradcheck(
            lambda q, k, v, o=options: causal_attention(q, k, v, "sdpa", **o), tensors, fast_mode=True
        )


@pytest.mark.parametrize("window", [None, 9])
def test_a_cap_and_a_window_are_those_of_gemma_2(window: int | None) -> None:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    query, key, value, _ = inputs(SEQ_LENGTH, 2, torch.float32)
    positions = torch.arange(SEQ_LENGTH)
    distance = positions[:, None] - positions
    # transformers.masking_utils: a position sees those after its own minus sliding_window.
    seen = (distance >= 0) & (positions > positions[:, None] - (window or SEQ_LENGTH))
    mask = torch.zeros(SEQ_LENGTH, SEQ_LENGTH).masked_fill(~seen, torch.finfo(torch.float32).min)
    heads_first = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
    module = SimpleNamespace(head_dim=16, num_key_value_groups=2, training=False)
    expected, _ = eager_attention_forward(module, *heads_first, mask, softcap=1.5)  # type: ignore[arg-type]
    expected = expected.transpose(0, 1).flatten(2)  # [b, s, n, d] -> [s, b, n * d]
    for backend in ("sdpa", "reference"):
        torch.testing.assert_close(causal_attention(query, key, value, backend, window=window, soft_cap=1.5), expected)
    wrong = causal_attention(query, key, value, "sdpa", window=window, soft_cap=1.6)
    assert not torch.allclose(wrong, expected, rtol=1e-4, atol=1e-4)


def test_the_window_is_that_of_transformers_masks() -> None:
    from transformers.masking_utils import sliding_window_causal_mask_function

    mask = sliding_window_causal_mask_function(9)
    rows, columns = torch.arange(SEQ_LENGTH)[:, None], torch.arange(SEQ_LENGTH)[None]
    theirs = mask(0, 0, rows, columns)
    whole = (0, SEQ_LENGTH, 0, SEQ_LENGTH)
    assert torch.equal(attention_blocks._seen(whole, 9, None, torch.device("cpu")), theirs)
    assert not torch.equal(attention_blocks._seen(whole, 8, None, torch.device("cpu")), theirs)


def test_blocks_meet_the_keys_of_their_window_alone_and_hold_the_inputs_alone() -> None:
    for num_queries, num_blocks in ((100_000, 200), (30_000, 60)):
        of_queries = attention_blocks._blocks(num_queries, 100_000, 1000, None)
        met = [end_key - first_key for _, _, first_key, end_key in of_queries]
        assert max(met) <= 1000 + 500 and len(met) == num_blocks
    held: list[Tensor] = []
    query, key, value = (tensor.requires_grad_() for tensor in inputs(300, 1, torch.bfloat16)[:3])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        attention_blocks.block_attention(query, key, value, None, 40, 5.0)
    assert [tensor.data_ptr() for tensor in held] == [tensor.data_ptr() for tensor in (query, key, value)]


def test_on_a_cpu_blocks_hold_inputs_output_and_one_number_a_query_and_their_scores_fit_the_cache() -> None:
    held: list[Tensor] = []
    query, key, value = (tensor.requires_grad_() for tensor in inputs(300, 2, torch.bfloat16)[:3])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        output = causal_attention(query, key, value, "sdpa", window=40, soft_cap=5.0)
    numbers = query.numel() + key.numel() + value.numel() + output.numel()
    assert [tensor.numel() for tensor in held] == [
        query.numel(),
        key.numel(),
        value.numel(),
        output.numel(),
        300 * 2 * 4,
    ]
    assert sum(tensor.nbytes for tensor in held) == 2 * numbers + 4 * 300 * 2 * 4
    grouped = torch.empty(64, 4, 4096, 64, device="meta")
    for window, most in ((None, 4096), (1000, 1000 + 64)):
        parts = list(causal_blocks.blocks(grouped, grouped.shape[2], window))
        covered = sum((part.stop - part.start) * (end - first) for part, (first, end, _, _) in parts)
        assert covered == 64 * 4096 and max(end - first_key for _, (_, end, first_key, _) in parts) <= most
        assert all(
            (part.stop - part.start) * 4 * (end - first) * (end - first_key) <= max(causal_blocks.SCORES, 256 * 4096)
            for part, (first, end, first_key, _) in parts
        )


def test_windows_and_caps_that_mean_nothing_are_refused() -> None:
    query, key, value, _ = inputs(5, 1, torch.float32)
    with pytest.raises(AssertionError, match=r"window \(0\) must be at least 1"):
        causal_attention(query, key, value, "sdpa", window=0)
    with pytest.raises(AssertionError, match=r"soft_cap \(0.0\) must be above 0"):
        causal_attention(query, key, value, "sdpa", soft_cap=0.0)
