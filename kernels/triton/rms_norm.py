"""Root-mean-square normalisation through Triton. Definition: kernels.reference.rms_norm; kernels: device/rms_norm.py.

Between forward and backward it holds what was normed, the weight, and one fp32 number a row. Not yet run on a GPU.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.triton import launch
from fanal.kernels.triton.rows import as_rows, parts, power_of_two, warps_for

MAX_HIDDEN = 16_384
"""A row is held in registers whole."""
MAX_PROGRAMS = 512
"""Parts of the weight's gradient, each in one program. Not a multiple of the device's units: the sum's order, and with it the
last bits, would change with the GPU. At 16,384 rows of bf16 the parts are a hundredth of the bytes."""


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float, zero_centered: bool) -> Tensor:
        rows = as_rows(x)
        y, inverse_rms = _forward(rows, None, None, weight, eps, zero_centered)
        ctx.save_for_backward(rows, weight, inverse_rms)
        ctx.zero_centered = zero_centered  # pyright: ignore[reportAttributeAccessIssue]
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dx, dw = _backward(ctx, dy, None)
        return dx.view(dy.shape), dw, None, None


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, residual: Tensor, weight: Tensor, eps: float, zero_centered: bool
    ) -> tuple[Tensor, Tensor]:
        total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rows = total.view(-1, x.shape[-1])
        y, inverse_rms = _forward(as_rows(x), as_rows(residual), rows, weight, eps, zero_centered)
        ctx.save_for_backward(total, weight, inverse_rms)
        ctx.zero_centered = zero_centered  # pyright: ignore[reportAttributeAccessIssue]
        return total, y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_total: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dx, dw = _backward(ctx, dy, d_total)
        # One tensor for both, as torch's addition returns it: of two views autograd would give one memory to two leaves.
        shared = dx.view(dy.shape)
        return shared, shared, dw, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, zero_centered: bool = False) -> Tensor:
    """Compute x / sqrt(mean(x^2) + eps) * weight over the last dimension. Rounds once, at the end.

    Args: x [..., h], h up to 16,384; weight [h]; eps > 0, added to the mean square; zero_centered: multiply by 1 + weight
        (Gemma), the sum in fp32.
    Returns: [..., h] in x.dtype.
    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019 (arXiv:1910.07467).
    """
    _check(x, weight)
    return _RMSNorm.apply(x, weight, eps, zero_centered)  # pyright: ignore[reportReturnType]


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, zero_centered: bool = False
) -> tuple[Tensor, Tensor]:
    """Add the residual stream, and norm the sum as it was rounded. Holds the sum, so neither x nor residual.

    In one pass where an addition and a norm read and write the sum once more each.

    Args: x, residual [..., h], equal shapes and dtypes; the rest as in rms_norm.
    Returns: x + residual and its norm, [..., h] in x.dtype.
    """
    _check(x, weight)
    assert residual.shape == x.shape, (
        f"residual {tuple(residual.shape)} and x {tuple(x.shape)} must have the same shape"
    )
    assert residual.dtype == x.dtype, f"residual ({residual.dtype}) and x ({x.dtype}) must have one dtype"
    return _AddRMSNorm.apply(x, residual, weight, eps, zero_centered)  # pyright: ignore[reportReturnType]


def _check(x: Tensor, weight: Tensor) -> None:
    assert weight.shape == x.shape[-1:], f"weight {tuple(weight.shape)} must match the last dim of x {tuple(x.shape)}"
    assert x.shape[-1] <= MAX_HIDDEN, f"rows of {x.shape[-1]} are longer than {MAX_HIDDEN}"


def _forward(
    x: Tensor, residual: Tensor | None, total: Tensor | None, weight: Tensor, eps: float, zero_centered: bool
) -> tuple[Tensor, Tensor]:
    """Return the norm [rows, h], and 1 / rms [rows] in fp32; fill total with x + residual."""
    num_rows, h = x.shape
    y = torch.empty((num_rows, h), dtype=x.dtype, device=x.device)
    inverse_rms = torch.empty(num_rows, dtype=torch.float32, device=x.device)
    block = power_of_two(h)
    launch.start(
        "rms_norm.forward",
        (num_rows,),
        *(x, residual, weight.contiguous(), total, y, inverse_rms),
        *(x.stride(0), 0 if residual is None else residual.stride(0), h, eps),
        num_warps=warps_for(block),
        ADD=residual is not None,
        ZERO_CENTERED=zero_centered,
        BLOCK=block,
    )
    return y, inverse_rms


def _backward(ctx: FunctionCtx, dy: Tensor, d_total: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of what was normed, [rows, h], and of the weight."""
    x, weight, inverse_rms = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
    x, dy = as_rows(x), as_rows(dy)
    d_total = None if d_total is None else as_rows(d_total)
    num_rows, h = x.shape
    rows_per_program = parts(num_rows, MAX_PROGRAMS)
    programs = parts(num_rows, rows_per_program)
    dx = torch.empty((num_rows, h), dtype=x.dtype, device=x.device)
    dw = torch.empty((programs, h), dtype=torch.float32, device=x.device)
    block = power_of_two(h)
    launch.start(
        "rms_norm.backward",
        (programs,),
        *(x, weight.contiguous(), inverse_rms, dy, d_total, dx, dw),
        *(x.stride(0), dy.stride(0), 0 if d_total is None else d_total.stride(0), num_rows, h, rows_per_program),
        num_warps=warps_for(block),
        ADD=d_total is not None,
        ZERO_CENTERED=ctx.zero_centered,  # pyright: ignore[reportAttributeAccessIssue]
        BLOCK=block,
    )
    return dx, dw.sum(0).to(weight.dtype)
