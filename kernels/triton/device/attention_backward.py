"""Causal attention with grouped queries in Triton, backward: no atomics, so every sum has one order.

With p = exp(z - log total) and D = sum over channels of dO O:
    dS = p (dO v - D), times 1 - (z / cap)^2 with a cap
    dQ = scale sum over keys of dS k         one kernel, a block of queries a program, which also writes D
    dK = scale sum over queries of dS q      another, a block of keys a program, over all query heads of its group
    dV = sum over queries of p dO
The scores are computed twice, once in each. Dao, FlashAttention-2, 2023 (arXiv:2307.08691), algorithm 2; a key is seen by the
queries of the positions from its own to last[key], those of the last q of s positions, as in the forward: a key may have none.
"""

import triton
import triton.language as tl

from fanal.kernels.triton.device.attention import LOG2_E, logits


@triton.jit
def slope(z, cap, CAP: tl.constexpr):
    """The derivative of the capped score by the score that went in; z in units of log 2."""
    if CAP:
        t = z * (1.0 / (LOG2_E * cap))
        return 1.0 - t * t
    else:
        return 1.0


@triton.jit
def over_keys(
    d_query, query, d_output, log_total, delta, row, row_first, key_ptr, value_ptr, key_stride, value_stride, begin, end, s,
    scale, cap, HEAD_SIZE: tl.constexpr, D: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr, RANGES: tl.constexpr,
    CAP: tl.constexpr,
):  # fmt: skip
    """Add to dQ what the keys of [begin, end) give."""
    channel = tl.arange(0, D)
    for start in range(begin, end, KEYS):
        key = start + tl.arange(0, KEYS)
        inside = ((key < s if MASKED else key >= 0)[None, :]) & (channel < HEAD_SIZE)[:, None]
        at = key.to(tl.int64)[None, :]
        keys = tl.load(key_ptr + at * key_stride + channel[:, None], mask=inside, other=0.0)
        values = tl.load(value_ptr + at * value_stride + channel[:, None], mask=inside, other=0.0)
        z = logits(tl.dot(query, keys, input_precision="ieee"), scale, cap, CAP)
        p = tl.exp2(z - log_total[:, None])
        if MASKED:
            seen = key[None, :] <= row[:, None]
            if RANGES:
                seen = seen & (key[None, :] >= row_first[:, None])
            p = tl.where(seen, p, 0.0)
        d_scores = p * (tl.dot(d_output, values, input_precision="ieee") - delta[:, None]) * slope(z, cap, CAP)
        d_query = tl.dot(d_scores.to(keys.dtype), tl.trans(keys), d_query, input_precision="ieee")
    return d_query


@triton.jit
def for_queries(
    query_ptr, key_ptr, value_ptr,  # as in the forward
    first_ptr,  # [b, s], int32, the first key that a position sees; None: all of them up to itself
    output_ptr,  # [q, b, n, d] in one piece
    d_output_ptr,  # [q, b, n, d] in one piece
    log_total_ptr,  # [b, n, q], fp32
    delta_ptr,  # [b, n, q], fp32: sum of dO O, written here
    d_query_ptr,  # [q, b, n, d] in one piece
    query_stride, query_batch, query_head,
    key_stride, key_batch, key_head,
    value_stride, value_batch, value_head,
    q, s, batch, heads, scale, cap,
    RATIO: tl.constexpr, HEAD_SIZE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    RANGES: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """One program a block of queries of a head.

    Queries go by their positions, and pointers to them begin s - q before the first: numbered from the first query, as in the
    forward, heads of 80 with a window and a cap spill on sm_90.
    """
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    behind = s - q
    row_start = behind + block * ROWS
    row = row_start + tl.arange(0, ROWS)  # positions
    channel = tl.arange(0, D)
    inside = (row < s)[:, None] & (channel < HEAD_SIZE)[None, :]
    first_query = tl.cast(behind, tl.int64)
    query_ptr += b * query_batch + head * query_head - first_query * query_stride
    key_ptr += b * key_batch + (head // RATIO) * key_head
    value_ptr += b * value_batch + (head // RATIO) * value_head
    at = row.to(tl.int64)[:, None] * (batch * heads * HEAD_SIZE) + channel[None, :]
    at += ((b - first_query * batch) * heads + head) * HEAD_SIZE
    query = tl.load(query_ptr + row.to(tl.int64)[:, None] * query_stride + channel[None, :], mask=inside, other=0.0)
    output = tl.load(output_ptr + at, mask=inside, other=0.0)
    d_output = tl.load(d_output_ptr + at, mask=inside, other=0.0)
    delta = tl.sum(output.to(tl.float32) * d_output.to(tl.float32), axis=1)
    statistics = (b * heads + head) * q - first_query + row
    tl.store(delta_ptr + statistics, delta, mask=row < s)
    log_total = tl.load(log_total_ptr + statistics, mask=row < s, other=0.0)
    d_query = tl.zeros([ROWS, D], tl.float32)
    end = tl.minimum(row_start + ROWS, s)
    diagonal = row_start // KEYS * KEYS  # from here on some of the queries are before a key
    begin = 0
    all_seen = 0
    row_first = row
    if RANGES:
        row_first = tl.load(first_ptr + b * s + row, mask=row < s, other=0)
        begin = tl.load(first_ptr + b * s + row_start) // KEYS * KEYS
        all_seen = tl.minimum((tl.load(first_ptr + b * s + end - 1) + KEYS - 1) // KEYS * KEYS, diagonal)
        d_query = over_keys(
            d_query, query, d_output, log_total, delta, row, row_first, key_ptr, value_ptr, key_stride, value_stride,
            begin, all_seen, s, scale, cap, HEAD_SIZE, D, KEYS, True, RANGES, CAP,
        )  # fmt: skip
        all_seen = tl.maximum(begin, all_seen)
    d_query = over_keys(
        d_query, query, d_output, log_total, delta, row, row_first, key_ptr, value_ptr, key_stride, value_stride,
        all_seen, diagonal, s, scale, cap, HEAD_SIZE, D, KEYS, False, RANGES, CAP,
    )  # fmt: skip
    d_query = over_keys(
        d_query, query, d_output, log_total, delta, row, row_first, key_ptr, value_ptr, key_stride, value_stride,
        tl.maximum(begin, diagonal), end, s, scale, cap, HEAD_SIZE, D, KEYS, True, RANGES, CAP,
    )  # fmt: skip
    tl.store(d_query_ptr + at, (d_query * scale).to(d_query_ptr.dtype.element_ty), mask=inside)


@triton.jit
def over_queries(
    d_key, d_value, keys, values, key, key_last, query_ptr, d_output_ptr, log_total_ptr, delta_ptr, query_stride,
    output_stride, begin, end, behind, s, scale, cap, HEAD_SIZE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, RANGES: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """Add to dK and dV what the queries of [begin, end) of one head give. Without MASKED each of them sees every key here.

    Queries go by their positions; pointers begin at the first one, that of position s - q: earlier, and sm_100 spills.
    """
    channel = tl.arange(0, D)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        known = row < s if MASKED else row >= 0
        at = (row - behind).to(tl.int64)
        query = tl.load(
            query_ptr + at[None, :] * query_stride + channel[:, None],
            mask=known[None, :] & (channel < HEAD_SIZE)[:, None],
            other=0.0,
        )
        d_output = tl.load(
            d_output_ptr + at[:, None] * output_stride + channel[None, :],
            mask=known[:, None] & (channel < HEAD_SIZE)[None, :],
            other=0.0,
        )
        log_total = tl.load(log_total_ptr + at, mask=known, other=0.0)
        delta = tl.load(delta_ptr + at, mask=known, other=0.0)
        z = logits(tl.dot(keys, query, input_precision="ieee"), scale, cap, CAP)  # [KEYS, ROWS]
        p = tl.exp2(z - log_total[None, :])
        if MASKED:
            seen = (key[:, None] <= row[None, :]) & known[None, :]
            if RANGES:
                seen = seen & (row[None, :] <= key_last[:, None])
            p = tl.where(seen, p, 0.0)
        d_value = tl.dot(p.to(d_output.dtype), d_output, d_value, input_precision="ieee")
        d_scores = p * (tl.dot(values, tl.trans(d_output), input_precision="ieee") - delta[None, :])
        d_scores *= slope(z, cap, CAP)
        d_key = tl.dot(d_scores.to(query.dtype), tl.trans(query), d_key, input_precision="ieee")
    return d_key, d_value


@triton.jit
def for_keys(
    query_ptr, key_ptr, value_ptr,  # as in the forward
    last_ptr,  # [b, s], int32, the last position that sees a key; None: all from the key on
    d_output_ptr,  # [q, b, n, d] in one piece
    log_total_ptr,  # [b, n, q], fp32
    delta_ptr,  # [b, n, q], fp32
    d_key_ptr,  # [s, b, g, d] in one piece
    d_value_ptr,  # [s, b, g, d] in one piece
    query_stride, query_batch, query_head,
    key_stride, key_batch, key_head,
    value_stride, value_batch, value_head,
    q, s, batch, groups, scale, cap,
    RATIO: tl.constexpr, HEAD_SIZE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    RANGES: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """One program a block of keys of a group."""
    key_start = tl.program_id(0) * KEYS
    group = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    key = key_start + tl.arange(0, KEYS)
    channel = tl.arange(0, D)
    inside = (key < s)[:, None] & (channel < HEAD_SIZE)[None, :]
    at = key.to(tl.int64)[:, None]
    key_ptr += b * key_batch + group * key_head
    value_ptr += b * value_batch + group * value_head
    keys = tl.load(key_ptr + at * key_stride + channel[None, :], mask=inside, other=0.0)
    values = tl.load(value_ptr + at * value_stride + channel[None, :], mask=inside, other=0.0)
    d_key = tl.zeros([KEYS, D], tl.float32)
    d_value = tl.zeros([KEYS, D], tl.float32)
    behind = s - q  # position of the first query
    begin = behind + tl.maximum(key_start - behind, 0) // ROWS * ROWS
    end = s
    # From here on a query is behind every key.
    all_see = tl.minimum(behind + (tl.maximum(key_start + KEYS - behind, 0) + ROWS - 1) // ROWS * ROWS, s)
    rest = behind + q // ROWS * ROWS  # and from here on some are missing
    key_last = key
    if RANGES:
        key_last = tl.load(last_ptr + b * s + key, mask=key < s, other=0)
        end = tl.maximum(tl.load(last_ptr + b * s + tl.minimum(key_start + KEYS, s) - 1) + 1, behind)
        rest = behind + tl.maximum(tl.load(last_ptr + b * s + key_start) + 1 - behind, 0) // ROWS * ROWS
        all_see = tl.minimum(all_see, end)
    rest = tl.maximum(all_see, rest)
    heads = groups * RATIO
    output_stride = batch * heads * HEAD_SIZE
    for i in range(0, RATIO):
        head = group * RATIO + i
        query = query_ptr + b * query_batch + head * query_head
        d_output = d_output_ptr + (b * heads + head) * HEAD_SIZE
        log_total = log_total_ptr + (b * heads + head) * q
        delta = delta_ptr + (b * heads + head) * q
        d_key, d_value = over_queries(
            d_key, d_value, keys, values, key, key_last, query, d_output, log_total, delta, query_stride, output_stride,
            begin, all_see, behind, s, scale, cap, HEAD_SIZE, D, ROWS, True, RANGES, CAP,
        )  # fmt: skip
        d_key, d_value = over_queries(
            d_key, d_value, keys, values, key, key_last, query, d_output, log_total, delta, query_stride, output_stride,
            all_see, rest, behind, s, scale, cap, HEAD_SIZE, D, ROWS, False, RANGES, CAP,
        )  # fmt: skip
        d_key, d_value = over_queries(
            d_key, d_value, keys, values, key, key_last, query, d_output, log_total, delta, query_stride, output_stride,
            rest, end, behind, s, scale, cap, HEAD_SIZE, D, ROWS, True, RANGES, CAP,
        )  # fmt: skip
    target = at * (batch * groups * HEAD_SIZE) + (b * groups + group) * HEAD_SIZE + channel[None, :]
    tl.store(d_key_ptr + target, (d_key * scale).to(d_key_ptr.dtype.element_ty), mask=inside)
    tl.store(d_value_ptr + target, d_value.to(d_value_ptr.dtype.element_ty), mask=inside)
