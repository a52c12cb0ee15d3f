"""Flash attention through Triton, against the definition. Shapes: s, b micro batch, n heads, g groups, d head size; q queries."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.triton import attention
from fanal.kernels.triton.attention import Tiles, flash_attention, visible_ranges
from tests.unit.triton_kernels.against import differences, planted, random, run

BOUND = {torch.float32: 5e-6, torch.float16: 2**-9}
"""Of products that are rounded before they enter the next one. No bf16: the interpreter's products of it are wrong."""
DOCUMENTS = torch.tensor([0, 5, 6, 27, 40, 51, 80], dtype=torch.int32)  # two rows of 40
SETTINGS: dict[str, dict[str, Any]] = {
    "causal": {},
    "scaled": {"softmax_scale": 0.4},
    "window": {"window": 7},
    "a window of one": {"window": 1},
    "documents": {"document_starts": DOCUMENTS},
    "documents and a window": {"document_starts": DOCUMENTS, "window": 12},
    "cap": {"soft_cap": 1.5},
    "all": {"document_starts": DOCUMENTS, "window": 18, "soft_cap": 1.5, "softmax_scale": 0.4},
}


@pytest.fixture(autouse=True)
def small_tiles(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that differ, and of which a row of 40 needs several."""
    sizes = Tiles(32, 16, 4, 1), Tiles(16, 16, 4, 1), Tiles(16, 32, 4, 1)
    monkeypatch.setattr(attention, "tiles", lambda head_size, dtype, amd: sizes)


def inputs(
    s: int = 40, b: int = 2, n: int = 4, g: int = 2, d: int = 16, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return [random(s, b, heads, d, dtype=dtype, seed=i) for i, heads in enumerate((n, g, g))]


def last(given: list[Tensor], q: int) -> list[Tensor]:
    """The same with the last q queries alone, in place: with the strides of all."""
    query, key, value = given
    return [query[-q:], key, value]


def ours(**settings: Any) -> Callable[..., Tensor]:
    return lambda *qkv: flash_attention(*qkv, **settings)


def definition(**settings: Any) -> Callable[..., Tensor]:
    def compute(*qkv: Tensor) -> Tensor:
        return reference.causal_grouped_attention(*qkv, **settings).view(qkv[0].shape)

    return compute


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("name", SETTINGS)
def test_output_and_gradients_equal_the_definition(name: str, dtype: torch.dtype) -> None:
    settings = SETTINGS[name]
    assert not differences(ours(**settings), definition(**settings), inputs(dtype=dtype), BOUND[dtype], floor=0.5)


@pytest.mark.parametrize(
    ("s", "b", "n", "g", "d"), [(1, 1, 1, 1, 16), (33, 1, 3, 1, 24), (64, 1, 2, 2, 40), (17, 3, 2, 1, 5)]
)
@pytest.mark.parametrize("window", [None, 9])
def test_lengths_groups_and_head_sizes_that_fill_no_block_equal_the_definition(
    s: int, b: int, n: int, g: int, d: int, window: int | None
) -> None:
    given = inputs(s, b, n, g, d)
    # Of one position the gradients of query and key are zero: nothing to be relative to.
    floor = 0.5 if s == 1 else 0.0
    assert not differences(ours(window=window), definition(window=window), given, BOUND[torch.float32], floor)


@pytest.mark.parametrize("sizes", [(16, 16, 16), (16, 32, 16), (32, 16, 32)])
def test_tiles_of_any_proportion_equal_the_definition(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    forward, rows, keys = sizes
    chosen = Tiles(forward, 16, 4, 1), Tiles(32, 32, 4, 1), Tiles(rows, keys, 4, 1)
    monkeypatch.setattr(attention, "tiles", lambda head_size, dtype, amd: chosen)
    for name in ("causal", "documents and a window"):
        assert not differences(ours(**SETTINGS[name]), definition(**SETTINGS[name]), inputs(), BOUND[torch.float32])


@pytest.mark.parametrize("q", [1, 16, 17, 24, 39])
@pytest.mark.parametrize("name", SETTINGS)
def test_fewer_queries_are_those_of_the_last_positions(name: str, q: int) -> None:
    settings = SETTINGS[name]
    given = last(inputs(), q)
    assert not differences(ours(**settings), definition(**settings), given, BOUND[torch.float32], floor=0.5)


@pytest.mark.parametrize("sizes", [(16, 16, 16), (16, 32, 16), (32, 16, 32)])
@pytest.mark.parametrize("q", [16, 19])
def test_fewer_queries_in_tiles_of_any_proportion(
    q: int, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, rows, keys = sizes
    chosen = Tiles(forward, 32, 4, 1), Tiles(16, 32, 4, 1), Tiles(rows, keys, 4, 1)
    monkeypatch.setattr(attention, "tiles", lambda head_size, dtype, amd: chosen)
    for name in ("causal", "documents and a window"):
        given = last(inputs(), q)
        assert not differences(ours(**SETTINGS[name]), definition(**SETTINGS[name]), given, BOUND[torch.float32])


def test_fewer_queries_in_fp16_and_a_batch_of_one_equal_the_definition() -> None:
    starts = torch.tensor([0, 3, 3, 20, 31, 33], dtype=torch.int32)
    for settings in ({}, {"document_starts": starts}, {"document_starts": starts, "window": 5, "soft_cap": 1.5}):
        given = last(inputs(33, 1, 3, 1, 24, torch.float16), 13)
        assert not differences(ours(**settings), definition(**settings), given, BOUND[torch.float16], floor=0.5)


def test_keys_that_no_query_sees_get_gradients_of_zero() -> None:
    given = last(inputs(), 9)
    nan = [torch.full_like(tensor, float("nan")) for tensor in given]
    del nan  # what an empty tensor likely holds next
    for settings, keys in (({"document_starts": DOCUMENTS}, slice(27)), ({"window": 5}, slice(27))):
        *_, for_key, for_value = run(ours(**settings), given)
        for gradient in (for_key, for_value):
            assert not gradient[keys, 0].any() and gradient[31:, 0].any(dim=2).all()


def test_the_last_queries_alone_give_what_they_give_among_all() -> None:
    whole, part = run(ours(), inputs()), run(ours(), last(inputs(), 8))  # the rows of one tile, so in the same order
    torch.testing.assert_close(part[0], whole[0][-8:], rtol=1e-6, atol=1e-6)


def test_strided_tensors_give_the_same_bits() -> None:
    mixed = random(40, 2, 2, 4 * 16)  # Megatron's fused layout: two queries, a key, a value in each of two groups
    query, key, value = mixed[..., :16], mixed[..., 32:48], mixed[..., 48:]
    apart = [query, key, value]
    together = [tensor.clone(memory_format=torch.contiguous_format) for tensor in apart]
    swapped = [
        tensor.permute(3, 1, 2, 0).clone(memory_format=torch.contiguous_format).permute(3, 1, 2, 0) for tensor in apart
    ]
    for given in (apart, swapped):
        for found, expected in zip(run(ours(window=9), given), run(ours(window=9), together), strict=True):
            assert torch.equal(found, expected)


def test_ranges_say_who_sees_whom() -> None:
    first, last = visible_ranges(40, 2, DOCUMENTS, 12, torch.device("cpu"))
    assert first is not None and last is not None
    row, column = torch.arange(40)[:, None], torch.arange(40)[None, :]
    by_query = (column <= row) & (column >= first[:, :, None])
    by_key = (column <= row) & (row <= last[:, None, :])
    ids = reference.document_ids(DOCUMENTS, 2, 40)
    expected = (column <= row) & (column > row - 12) & (ids[:, :, None] == ids[:, None, :])
    assert torch.equal(by_query, expected) and torch.equal(by_key, expected)
    assert visible_ranges(40, 2, None, 40, torch.device("cpu")) == (None, None)
    assert (first.diff(dim=1) >= 0).all() and (last.diff(dim=1) >= 0).all()


def test_documents_that_are_empty_change_nothing() -> None:
    padded = torch.cat([DOCUMENTS[:2], DOCUMENTS[1:], DOCUMENTS[-1:], DOCUMENTS[-1:]])
    found, expected = (run(ours(document_starts=starts), inputs()) for starts in (padded, DOCUMENTS))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


FAULTS = [
    ("attention", "the scale of the root is lost", "return scores * (scale * LOG2_E)", "return scores * LOG2_E", "causal"),
    ("attention", "a query sees the next key", "seen = (key - behind)[None, :] <= row[:, None]", "seen = (key - behind)[None, :] <= row[:, None] + 1", "causal"),
    ("attention", "a window one key too long", "(key[None, :] >= row_first[:, None])", "(key[None, :] >= row_first[:, None] - 1)", "window"),
    ("attention", "the context is not rescaled", "context * shrink[:, None]", "context", "causal"),
    ("attention", "another group's keys", "(head // RATIO) * key_head", "(head % 2) * key_head", "causal"),
    ("attention", "the first keys are passed over", "begin = tl.load(first_ptr + b * q + row_start) // KEYS * KEYS", "begin = tl.load(first_ptr + b * q + row_end - 1) // KEYS * KEYS", "window"),
    ("attention_backward", "D is lost", "tl.dot(d_output, values, input_precision=\"ieee\") - delta[:, None]", "tl.dot(d_output, values, input_precision=\"ieee\")", "causal"),
    ("attention_backward", "the cap's slope is lost", "return 1.0 - t * t", "return 1.0 - 0.0 * t", "cap"),
    ("attention_backward", "keys of one head of a group", "for i in range(0, RATIO):", "for i in range(0, 1):", "causal"),
    ("attention_backward", "a key is seen by a query too many", "(row[None, :] <= key_last[:, None])", "(row[None, :] <= key_last[:, None] + 1)", "window"),
    ("attention_backward", "the last queries are passed over", "tl.minimum(key_start + KEYS, s) - 1) + 1", "key_start) + 1", "documents"),
    ("attention_backward", "the scale of the keys' gradient is lost", "(d_key * scale)", "(d_key)", "causal"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "right", "wrong", "setting"), [(m, r, w, s) for m, _, r, w, s in FAULTS], ids=[f[1] for f in FAULTS]
)
def test_a_fault_in_the_kernel_is_seen(module: str, right: str, wrong: str, setting: str, tmp_path: Path) -> None:
    settings = SETTINGS[setting]
    with planted(module, right, wrong, tmp_path):
        assert differences(ours(**settings), definition(**settings), inputs(), BOUND[torch.float32])


FAULTS_OF_FEWER_QUERIES = [
    ("attention", "queries are aligned to the start", "seen = (key - behind)[None, :]", "seen = key[None, :]", "causal"),
    ("attention", "the diagonal needs no mask", "diagonal = (behind + row_start) // KEYS * KEYS", "diagonal = tl.minimum(2 * behind + row_start, s) // KEYS * KEYS", "causal"),
    ("attention", "keys end with the queries' number", "end = behind + row_end", "end = row_end", "causal"),
    ("attention_backward", "dQ's keys end with the queries' number", "end = tl.minimum(row_start + ROWS, s)", "end = tl.minimum(row_start + ROWS, s) - behind", "causal"),
    ("attention_backward", "dQ's diagonal needs no mask", "diagonal = row_start // KEYS * KEYS", "diagonal = tl.minimum(row_start + behind, s) // KEYS * KEYS", "causal"),
    ("attention_backward", "first is that of the query's number", "row_first = tl.load(first_ptr + b * s + row,", "row_first = tl.load(first_ptr + b * s + row - behind,", "window"),
    ("attention_backward", "dK begins with a later query", "begin = behind + tl.maximum(key_start - behind, 0)", "begin = behind + tl.maximum(key_start, 0)", "causal"),
    ("attention_backward", "dK needs no mask too soon", "tl.maximum(key_start + KEYS - behind, 0) + ROWS - 1)", "tl.maximum(key_start + KEYS - 2 * behind, 0) + ROWS - 1)", "causal"),
    ("attention_backward", "last is counted from the first query", "tl.minimum(key_start + KEYS, s) - 1) + 1, behind)", "tl.minimum(key_start + KEYS, s) - 1) + 1 - behind, behind)", "documents"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "right", "wrong", "setting"),
    [(m, r, w, s) for m, _, r, w, s in FAULTS_OF_FEWER_QUERIES],
    ids=[f[1] for f in FAULTS_OF_FEWER_QUERIES],
)
def test_a_fault_in_the_kernel_that_only_fewer_queries_show_is_seen(
    module: str, right: str, wrong: str, setting: str, tmp_path: Path
) -> None:
    settings = SETTINGS[setting]

    def found(given: list[Tensor]) -> list[str]:
        return differences(ours(**settings), definition(**settings), given, BOUND[torch.float32], floor=0.5)

    with planted(module, right, wrong, tmp_path):
        assert found(last(inputs(), 24)) and not found(inputs())


def test_what_cannot_run_is_refused() -> None:
    query, key, value = inputs()
    with pytest.raises(AssertionError, match=r"query heads \(3\) must be a multiple of groups \(2\)"):
        flash_attention(query[:, :, :3], key, value)
    with pytest.raises(AssertionError, match=r"head_size \(257\) is larger than 256"):
        flash_attention(*inputs(s=1, d=257))
    with pytest.raises(AssertionError, match=r"queries \(40\) must not outnumber keys \(39\)"):
        flash_attention(query, key[1:], value[1:])
    with pytest.raises(AssertionError, match=r"window \(0\) must be at least 1"):
        flash_attention(query, key, value, window=0)
