"""Rotary embedding on fused queries, keys and values through Triton. Shapes: s, b micro batch, n heads, g groups, d head size."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.triton.rotary import rotary_qkv, rotary_tables
from tests.unit.triton_kernels.against import DTYPES, differences, planted, random, run

THETA = 100.0
LAYOUTS = [(4, 2, 16, 16), (3, 3, 8, 8), (5, 1, 12, 12), (4, 2, 16, 8), (6, 2, 20, 4)]
"""n, g, d, and how many channels turn."""


def angles(seq_length: int, turned: int) -> Tensor:
    return reference.rotary_angles(seq_length, reference.rotary_frequencies(turned, THETA))


def ours(head_size: int, turned: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda mixed: rotary_qkv(mixed, *rotary_tables(angles(len(mixed), turned)), head_size)


def definition(heads: int, groups: int, head_size: int, turned: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Split as Megatron does, then turn the first channels of queries and keys."""

    def turn(x: Tensor) -> Tensor:
        return torch.cat([reference.rotary_embedding(x[..., :turned], THETA), x[..., turned:]], dim=-1)

    def compute(mixed: Tensor) -> tuple[Tensor, ...]:
        query, key, value = mixed.split([heads // groups * head_size, head_size, head_size], dim=-1)
        return turn(query.reshape(*mixed.shape[:2], heads, head_size)), turn(key), value

    return compute


def fused(layout: tuple[int, int, int, int], dtype: torch.dtype = torch.float32, s: int = 5, b: int = 2) -> Tensor:
    heads, groups, head_size, _ = layout
    return random(s, b, groups, (heads // groups + 2) * head_size, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_queries_keys_values_and_the_gradient_equal_the_definition(
    layout: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    assert not differences(ours(*layout[2:]), definition(*layout), [fused(layout, dtype)])
    assert not differences(ours(*layout[2:]), definition(*layout), [fused(layout, dtype, s=1, b=1)])


def test_values_and_channels_that_do_not_turn_are_copied_bit_for_bit() -> None:
    mixed = fused((4, 2, 16, 8), torch.bfloat16)
    query, key, value = ours(16, 8)(mixed)
    assert torch.equal(value, mixed[..., -16:])
    assert torch.equal(key[..., 8:], mixed[..., 40:48])
    assert torch.equal(query[..., 8:], mixed[..., :32].reshape(5, 2, 4, 16)[..., 8:])


def test_layouts_that_do_not_lie_in_one_piece_give_the_same_bits() -> None:
    layout = (4, 2, 16, 16)
    wide = torch.cat([fused(layout)] * 2, dim=2)
    for cut in (wide[:, :, 1:3], fused(layout).transpose(0, 1)):
        copied = cut.clone(memory_format=torch.contiguous_format)
        for found, expected in zip(run(ours(16, 16), [cut]), run(ours(16, 16), [copied]), strict=True):
            assert torch.equal(found, expected)


def test_a_magnitude_multiplies_queries_and_keys() -> None:
    mixed = fused((4, 2, 16, 16))
    plain = ours(16, 16)(mixed)
    query, key, value = rotary_qkv(mixed, *rotary_tables(angles(5, 16), magnitude=2.0), 16)
    assert torch.equal(query, 2 * plain[0]) and torch.equal(key, 2 * plain[1]) and torch.equal(value, plain[2])


FAULTS = [
    ("turned the other way", "(a * cos - b * sin).to(first.dtype), first)", "(a * cos + b * sin).to(first.dtype), first)"),
    ("values turn", "turns = head <= QUERIES\n    first = tl.where(turns, (a * cos - b", "turns = head <= QUERIES + 1\n    first = tl.where(turns, (a * cos - b"),
    ("the backward turns as the forward", "(b * cos - a * sin)", "(b * cos + a * sin)"),
    ("the position of the row, not of the token", "angle = (token // batch) * HALF + pair\n    cos = tl.load(cos_ptr + angle, mask=pair < HALF, other=0.0)\n    sin = tl.load(sin_ptr + angle, mask=pair < HALF, other=0.0)\n    a, b = first.to(tl.float32), second.to(tl.float32)\n    turns = head <= QUERIES\n    first = tl.where(turns, (a * cos - b", "angle = (token // (batch + 1)) * HALF + pair\n    cos = tl.load(cos_ptr + angle, mask=pair < HALF, other=0.0)\n    sin = tl.load(sin_ptr + angle, mask=pair < HALF, other=0.0)\n    a, b = first.to(tl.float32), second.to(tl.float32)\n    turns = head <= QUERIES\n    first = tl.where(turns, (a * cos - b"),
    ("the gradient of the rest is lost", "rest += tl.load(key + channel", "rest += 0 * tl.load(key + channel"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_in_the_kernel_is_seen(right: str, wrong: str, tmp_path: Path) -> None:
    layout = (4, 2, 16, 8)
    with planted("rotary", right, wrong, tmp_path):
        assert differences(ours(*layout[2:]), definition(*layout), [fused(layout)])


def test_shapes_that_do_not_fit_are_refused() -> None:
    cos, sin = rotary_tables(angles(5, 16))
    with pytest.raises(AssertionError, match="must be"):
        rotary_qkv(fused((4, 2, 16, 16)), cos, sin, 48)
    with pytest.raises(AssertionError, match="16 channels turn, more than a head has"):
        rotary_qkv(random(5, 1, 1, 24), cos, sin, 8)
