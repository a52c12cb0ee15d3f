"""Causal attention with grouped queries in Triton, forward: the scores are never written.

Query m, that of position m + s - q, sees the keys from first[m] to its position: its document's start and its window together. Per
row, z = scale q k or cap tanh(scale q k / cap); a running maximum and sum of the softmax (Milakov and Gimelshein, 2018,
arXiv:1805.02867) let the keys go by block after block (Dao, FlashAttention-2, 2023, arXiv:2307.08691, algorithm 1). first grows
with m, so a block of queries has keys that some of them see, then keys that all see and which need no mask, then the diagonal.
Logarithms are to base two. Products of fp32 are exact ones: Triton's default cuts it to tf32. In two bytes "ieee" changes nothing.
"""

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def logits(scores, scale, cap, CAP: tl.constexpr):
    """The scaled and capped scores, in units of log 2."""
    if CAP:
        # tanh(t) = 2 sigmoid(2t) - 1
        return (cap * LOG2_E) * (2.0 * tl.sigmoid(scores * (2.0 * scale / cap)) - 1.0)
    else:
        return scores * (scale * LOG2_E)


@triton.jit
def attend(
    context, total, largest, query, row, row_first, key_ptr, value_ptr, key_stride, value_stride, begin, end, behind, s, scale, cap,
    HEAD_SIZE: tl.constexpr, D: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr, RANGES: tl.constexpr,
    CAP: tl.constexpr,
):  # fmt: skip
    """Let the keys of [begin, end) go by. Without MASKED every query sees all of them."""
    channel = tl.arange(0, D)
    for start in range(begin, end, KEYS):
        key = start + tl.arange(0, KEYS)
        at = key.to(tl.int64)
        inside = key < s if MASKED else key >= 0
        keys = tl.load(
            key_ptr + at[None, :] * key_stride + channel[:, None],
            mask=inside[None, :] & (channel < HEAD_SIZE)[:, None],
            other=0.0,
        )
        z = logits(tl.dot(query, keys, input_precision="ieee"), scale, cap, CAP)
        if MASKED:
            seen = (key - behind)[None, :] <= row[:, None]
            if RANGES:
                seen = seen & (key[None, :] >= row_first[:, None])
            z = tl.where(seen, z, float("-inf"))
        grown = tl.maximum(largest, tl.max(z, axis=1))
        pivot = grown
        if MASKED:
            # A row that has seen nothing yet: -inf from itself is no number.
            pivot = tl.where(grown > float("-inf"), grown, 0.0)
        p = tl.exp2(z - pivot[:, None])
        shrink = tl.exp2(largest - pivot)
        total = total * shrink + tl.sum(p, axis=1)
        values = tl.load(
            value_ptr + at[:, None] * value_stride + channel[None, :],
            mask=inside[:, None] & (channel < HEAD_SIZE)[None, :],
            other=0.0,
        )
        context = tl.dot(p.to(values.dtype), values, context * shrink[:, None], input_precision="ieee")
        largest = grown
    return context, total, largest


@triton.jit
def forward(
    query_ptr,  # [q, b, n, d] with strides
    key_ptr,  # [s, b, g, d] with strides
    value_ptr,  # [s, b, g, d] with strides
    first_ptr,  # [b, q], int32, the first key that a query sees; None: all of them up to itself
    output_ptr,  # [q, b, n, d] in one piece
    log_total_ptr,  # [b, n, q], fp32: log2 of the sum of exp(z)
    query_stride, query_batch, query_head,
    key_stride, key_batch, key_head,
    value_stride, value_batch, value_head,
    q, s, batch, heads, scale, cap,
    RATIO: tl.constexpr,  # query heads of a group
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,  # head_size and padding
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    RANGES: tl.constexpr,
    CAP: tl.constexpr,
):  # fmt: skip
    """One program a block of queries of a head; those with the most keys start first."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    behind = s - q
    row_start = block * ROWS
    row = row_start + tl.arange(0, ROWS)
    channel = tl.arange(0, D)
    inside = (row < q)[:, None] & (channel < HEAD_SIZE)[None, :]
    query_ptr += b * query_batch + head * query_head
    key_ptr += b * key_batch + (head // RATIO) * key_head
    value_ptr += b * value_batch + (head // RATIO) * value_head
    query = tl.load(query_ptr + row.to(tl.int64)[:, None] * query_stride + channel[None, :], mask=inside, other=0.0)
    context = tl.zeros([ROWS, D], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    row_end = tl.minimum(row_start + ROWS, q)
    end = behind + row_end
    diagonal = (behind + row_start) // KEYS * KEYS  # from here on some of the queries are before a key
    begin = 0
    all_seen = 0
    row_first = row
    if RANGES:
        row_first = tl.load(first_ptr + b * q + row, mask=row < q, other=0)
        begin = tl.load(first_ptr + b * q + row_start) // KEYS * KEYS
        all_seen = tl.minimum((tl.load(first_ptr + b * q + row_end - 1) + KEYS - 1) // KEYS * KEYS, diagonal)
        context, total, largest = attend(
            context, total, largest, query, row, row_first, key_ptr, value_ptr, key_stride, value_stride, begin, all_seen,
            behind, s, scale, cap, HEAD_SIZE, D, KEYS, True, RANGES, CAP,
        )  # fmt: skip
        all_seen = tl.maximum(begin, all_seen)
    context, total, largest = attend(
        context, total, largest, query, row, row_first, key_ptr, value_ptr, key_stride, value_stride, all_seen, diagonal,
        behind, s, scale, cap, HEAD_SIZE, D, KEYS, False, RANGES, CAP,
    )  # fmt: skip
    context, total, largest = attend(
        context, total, largest, query, row, row_first, key_ptr, value_ptr, key_stride, value_stride,
        tl.maximum(begin, diagonal), end, behind, s, scale, cap, HEAD_SIZE, D, KEYS, True, RANGES, CAP,
    )  # fmt: skip
    output_ptr += (b * heads + head) * HEAD_SIZE
    at = row.to(tl.int64)[:, None] * (batch * heads * HEAD_SIZE) + channel[None, :]
    tl.store(output_ptr + at, (context / total[:, None]).to(output_ptr.dtype.element_ty), mask=inside)
    tl.store(log_total_ptr + (b * heads + head) * q + row, largest + tl.log2(total), mask=row < q)
