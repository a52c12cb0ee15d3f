"""Rows as a kernel reads them, and the sizes of what one program takes."""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels of this room take. They compute in fp32; fp64 is for kernels.reference."""


def as_rows(tensor: Tensor) -> Tensor:
    """Return [..., h] as [rows, h] whose last dimension lies in one piece: a view where there is one, else a copy."""
    assert tensor.dtype in DTYPES, f"{tensor.dtype} is not one of {', '.join(map(str, DTYPES))}"
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a number of at least one."""
    assert number >= 1, f"{number} is below one"
    return 1 << (number - 1).bit_length()


def parts(number: int, size: int) -> int:
    """Return how many parts of a size cover a number, the last one perhaps not full."""
    return -(-number // size)


def warps_for(elements: int, per_thread: int = 16, most: int = 16) -> int:
    """Return how many warps share a block of elements, so that a thread holds about per_thread of them."""
    return min(max(power_of_two(parts(elements, 32 * per_thread)), 1), most)
