"""The sum of what is stored is that of the weights in a rank's memory, in both precisions."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.checkpoint.disk.stored_sums import stored_sum
from pretrain.checkpoint.saving.replicas import weight_sum

BITS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50)


def without_nan(bits: list[int]) -> np.ndarray:
    values = np.array(bits, np.uint32).view(np.float32)
    return values[~np.isnan(values)]


@given(BITS)
def test_float32_sums_are_those_of_the_weights(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    assert stored_sum(values, "float32") == weight_sum(torch.from_numpy(values))


@given(BITS)
def test_bfloat16_sums_are_those_of_the_weights_that_torch_rounds(bits: list[int]) -> None:
    values = without_nan(bits)
    assert stored_sum(values, "bfloat16") == weight_sum(torch.from_numpy(values).to(torch.bfloat16))


def test_ties_go_to_even_and_what_is_too_large_to_infinity() -> None:
    halves = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0xFF7FFFFF, 0x80000001, 0x00000000], np.uint32)
    rounded = [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0xFF80, 0x8000, 0x0000]
    expected = sum(n - 2**16 if n >= 2**15 else n for n in rounded) % 2**64
    assert stored_sum(halves.view(np.float32), "bfloat16") == expected
    assert Fraction(float(halves[:1].view(np.float32)[0])) == Fraction(1) + Fraction(1, 256), "halfway between two"


@given(BITS, st.integers(0, 50), st.integers(0, 31))
def test_one_flipped_bit_changes_the_sum_and_the_parts_add_up(bits: list[int], place: int, bit: int) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    place %= len(values)
    parts = stored_sum(values[:place], "float32") + stored_sum(values[place:], "float32")
    assert parts % 2**64 == stored_sum(values, "float32")
    changed = values.copy()
    changed.view(np.uint32)[place] ^= np.uint32(1 << bit)
    assert stored_sum(changed, "float32") != stored_sum(values, "float32")
