"""Cross entropy over one rank's columns of the vocabulary, in Triton: the logits are read as they are, in two bytes each.

With z = x, or cap tanh(x / cap), over all columns of all ranks, and L = log(sum exp z):
    loss = L - z[label]
    dx   = (exp(z - L) (g_loss + g_L) - [label] g_loss) (1 - (z / cap)^2), the last factor with a cap only
A column at or beyond ``columns`` pads the vocabulary: it counts nowhere, and its gradient is zero.
Milakov and Gimelshein, Online normalizer calculation for softmax, 2018 (arXiv:1805.02867).
"""

import triton
import triton.language as tl


@triton.jit
def capped(x, cap):
    """cap tanh(x / cap); tanh(t) = 2 sigmoid(2t) - 1, within one rounding of one."""
    return cap * (2.0 * tl.sigmoid(2.0 * x / cap) - 1.0)


@triton.jit
def forward(
    logits_ptr,  # [rows, width]
    labels_ptr,  # [rows], of the whole vocabulary
    largest_ptr,  # [rows], fp32: the largest z here
    total_ptr,  # [rows], fp32: the sum of exp(z - largest) here
    chosen_ptr,  # [rows], fp32: z of the label, zero if it lies on another rank
    row_stride,
    first_column,
    columns,
    cap,
    CAP: tl.constexpr,
    LANES: tl.constexpr,
):
    """One program a row: one pass, each lane of eight columns with a maximum and a sum of its own until the end.

    A maximum for each column would cost two exponentials a logit, more than the units for them make while memory delivers one.
    """
    row = tl.program_id(0).to(tl.int64)
    base = logits_ptr + row * row_stride
    offsets = tl.arange(0, LANES)[:, None] * 8 + tl.arange(0, 8)[None, :]
    largest = tl.full([LANES], float("-inf"), tl.float32)
    total = tl.zeros([LANES], tl.float32)
    for start in range(0, columns, LANES * 8):
        at = start + offsets
        inside = at < columns
        z = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
        if CAP:
            z = capped(z, cap)
        z = tl.where(inside, z, float("-inf"))
        grown = tl.maximum(largest, tl.max(z, axis=1))
        # A lane that has seen nothing yet holds -inf, whose difference from itself is no number.
        pivot = tl.where(grown > float("-inf"), grown, 0.0)
        total = total * tl.exp(largest - pivot) + tl.sum(tl.exp(z - pivot[:, None]), axis=1)
        largest = grown
    of_row = tl.max(largest, axis=0)
    pivot = tl.where(of_row > float("-inf"), of_row, 0.0)
    tl.store(largest_ptr + row, of_row)
    tl.store(total_ptr + row, tl.sum(total * tl.exp(largest - pivot), axis=0))
    label = tl.load(labels_ptr + row) - first_column
    here = (label >= 0) & (label < columns)
    chosen = tl.load(base + tl.where(here, label, 0), mask=here, other=0.0).to(tl.float32)
    if CAP:
        chosen = capped(chosen, cap)
    tl.store(chosen_ptr + row, chosen)


@triton.jit
def backward(
    logits_ptr,  # [rows, width], and then their gradient
    labels_ptr,  # [rows]
    log_sum_exp_ptr,  # [rows], fp32, over all ranks
    g_loss_ptr,  # [rows], fp32
    g_log_sum_exp_ptr,  # [rows], fp32
    row_stride,
    first_column,
    columns,
    width,
    cap,
    CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of a row, in place."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    base = logits_ptr + row * row_stride
    z = tl.load(base + at, mask=at < columns, other=0.0).to(tl.float32)
    if CAP:
        z = capped(z, cap)
    label = tl.load(labels_ptr + row) - first_column
    g_loss = tl.load(g_loss_ptr + row)
    g_log_sum_exp = tl.load(g_log_sum_exp_ptr + row)
    probability = tl.exp(z - tl.load(log_sum_exp_ptr + row))
    gradient = probability * (g_loss + g_log_sum_exp) - tl.where(at == label, g_loss, 0.0)
    if CAP:
        gradient *= 1.0 - (z / cap) * (z / cap)
    gradient = tl.where(at < columns, gradient, 0.0)
    tl.store(base + at, gradient.to(logits_ptr.dtype.element_ty), mask=at < width)
