"""Feed-forward activations in Triton, forward and backward, on the output of the first layer as it lies in memory.

Gated, x = [g, u], with a = g, or a = 2 sqrt(2/pi) (g + 0.044715 g^3), for which g sigmoid(a) is gelu in its tanh form:
    y  = g sigmoid(a) u
    dg = dy u (s + g s (1 - s) da/dg),  s = sigmoid(a)
    du = dy g s
Squared ReLU:
    y = max(x, 0)^2,  dx = 2 dy max(x, 0)
Shazeer, 2020 (arXiv:2002.05202); Hendrycks and Gimpel, 2016 (arXiv:1606.08415); So et al., 2021 (arXiv:2109.08668).
"""

import triton
import triton.language as tl


@triton.jit
def gated_forward(
    x_ptr,  # [rows, 2f]
    y_ptr,  # [rows, f]
    x_stride,
    f,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < f
    g = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(x_ptr + row * x_stride + f + columns, mask=inside, other=0.0).to(tl.float32)
    a = g
    if GELU:
        a = 1.5957691216057308 * (g + 0.044715 * g * g * g)
    tl.store(y_ptr + row * f + columns, (g * tl.sigmoid(a) * u).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gated_backward(
    x_ptr,  # [rows, 2f]
    dy_ptr,  # [rows, f]
    dx_ptr,  # [rows, 2f]
    x_stride,
    dy_stride,
    f,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of a row: the gradients of both halves."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < f
    g = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(x_ptr + row * x_stride + f + columns, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + row * dy_stride + columns, mask=inside, other=0.0).to(tl.float32)
    a = g
    if GELU:
        a = 1.5957691216057308 * (g + 0.044715 * g * g * g)
    s = tl.sigmoid(a)
    change = g * s * (1.0 - s)
    if GELU:
        change *= 1.5957691216057308 * (1.0 + 0.134145 * g * g)
    dg = dy * u * (s + change)
    du = dy * g * s
    tl.store(dx_ptr + row * 2 * f + columns, dg.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(dx_ptr + row * 2 * f + f + columns, du.to(dx_ptr.dtype.element_ty), mask=inside)


@triton.jit
def squared_relu_forward(
    x_ptr,  # [rows, f]
    y_ptr,  # [rows, f]
    x_stride,
    f,
    BLOCK: tl.constexpr,
):
    """One program a block of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < f
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    above = tl.maximum(x, 0.0)
    tl.store(y_ptr + row * f + columns, (above * above).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def squared_relu_backward(
    x_ptr,  # [rows, f]
    dy_ptr,  # [rows, f]
    dx_ptr,  # [rows, f]
    x_stride,
    dy_stride,
    f,
    BLOCK: tl.constexpr,
):
    """One program a block of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < f
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + row * dy_stride + columns, mask=inside, other=0.0).to(tl.float32)
    dx = 2.0 * tl.maximum(x, 0.0) * dy
    tl.store(dx_ptr + row * f + columns, dx.to(dx_ptr.dtype.element_ty), mask=inside)
