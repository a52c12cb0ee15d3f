"""RMSNorm in Triton, forward and backward, alone and after the addition of the residual stream.

With r = 1 / sqrt(mean(x^2) + eps) and u = weight, or 1 + weight:
    y  = x r u
    dx = r (u dy - x r^2 mean(x u dy))      and the gradient of the sum, if a residual was added
    dw = sum over all rows of dy x r
Zhang and Sennrich, 2019 (arXiv:1910.07467). A row is held in registers whole, so each tensor is read once and written once.
"""

import triton
import triton.language as tl


@triton.jit
def forward(
    x_ptr,  # [rows, h]
    residual_ptr,  # [rows, h], or None
    weight_ptr,  # [h]
    total_ptr,  # [rows, h], x + residual; None without a residual
    y_ptr,  # [rows, h]
    inverse_rms_ptr,  # [rows], fp32
    x_stride,
    residual_stride,
    h,
    eps,
    ADD: tl.constexpr,
    ZERO_CENTERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < h
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
        # Rounded before it is normed: the norm is that of the sum which the next layer reads.
        rounded = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * h + columns, rounded, mask=inside)
        x = rounded.to(tl.float32)
    inverse_rms = 1.0 / tl.sqrt_rn(tl.sum(x * x, axis=0) / h + eps)
    tl.store(inverse_rms_ptr + row, inverse_rms)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if ZERO_CENTERED:
        weight += 1.0
    tl.store(y_ptr + row * h + columns, (x * inverse_rms * weight).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    x_ptr,  # [rows, h], what was normed
    weight_ptr,  # [h]
    inverse_rms_ptr,  # [rows], fp32
    dy_ptr,  # [rows, h]
    d_total_ptr,  # [rows, h], the gradient of the sum from elsewhere; None without a residual
    dx_ptr,  # [rows, h]
    dw_ptr,  # [programs, h], fp32
    x_stride,
    dy_stride,
    d_total_stride,
    rows,
    h,
    rows_per_program,
    ADD: tl.constexpr,
    ZERO_CENTERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program walks its own rows and keeps its own part of dw: no atomics, so the sum has one order."""
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < h
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if ZERO_CENTERED:
        weight += 1.0
    dw = tl.zeros([BLOCK], dtype=tl.float32)
    first = program * rows_per_program  # 64 bits before the loop, whose variable has 32
    for i in range(0, rows_per_program):
        row = first + i
        here = inside & (row < rows)
        x = tl.load(x_ptr + row * x_stride + columns, mask=here, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_stride + columns, mask=here, other=0.0).to(tl.float32)
        inverse_rms = tl.load(inverse_rms_ptr + row, mask=row < rows, other=0.0)
        mean = tl.sum(x * weight * dy, axis=0) / h
        dx = inverse_rms * (weight * dy - x * (inverse_rms * inverse_rms * mean))
        if ADD:
            dx += tl.load(d_total_ptr + row * d_total_stride + columns, mask=here, other=0.0).to(tl.float32)
        tl.store(dx_ptr + row * h + columns, dx.to(dx_ptr.dtype.element_ty), mask=here)
        dw += dy * x * inverse_rms
    tl.store(dw_ptr + program * h + columns, dw, mask=inside)
