"""Rotary embedding on fused queries, keys and values in Triton, forward and backward: one pass from Megatron's layout to three.

A group's row holds its query heads, then its key, then its value, d channels each. Of the first r channels of a query or key,
channel i turns with channel i + r/2, by the angle of the position; the others, and the value, are copied:
    y_i = x_i cos - x_j sin,  y_j = x_j cos + x_i sin,  j = i + r/2
The backward is the turn by the opposite angle. Su et al., RoFormer, 2021 (arXiv:2104.09864).
"""

import triton
import triton.language as tl


@triton.jit
def forward(
    mixed_ptr,  # [tokens, g, (n/g + 2) d]
    cos_ptr,  # [s, r/2], fp32
    sin_ptr,  # [s, r/2], fp32
    query_ptr,  # [tokens, g, n/g, d]
    key_ptr,  # [tokens, g, d]
    value_ptr,  # [tokens, g, d]
    token_stride,
    batch,
    groups,
    QUERIES: tl.constexpr,  # query heads of a group
    HEAD_SIZE: tl.constexpr,
    TURNED: tl.constexpr,  # r
    HEADS_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
):
    """One program a group of a token."""
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    head = tl.arange(0, HEADS_BLOCK)[:, None]
    HALF: tl.constexpr = TURNED // 2
    base = mixed_ptr + token * token_stride + group * ((QUERIES + 2) * HEAD_SIZE) + head * HEAD_SIZE
    query = query_ptr + ((token * groups + group) * QUERIES + head) * HEAD_SIZE
    # Their heads are one each: the row of the head is left out of the address.
    key = key_ptr + (token * groups + group) * HEAD_SIZE + head * 0
    value = value_ptr + (token * groups + group) * HEAD_SIZE + head * 0

    pair = tl.arange(0, HALF_BLOCK)[None, :]
    inside = (head < QUERIES + 2) & (pair < HALF)
    first = tl.load(base + pair, mask=inside, other=0.0)
    second = tl.load(base + HALF + pair, mask=inside, other=0.0)
    angle = (token // batch) * HALF + pair
    cos = tl.load(cos_ptr + angle, mask=pair < HALF, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=pair < HALF, other=0.0)
    a, b = first.to(tl.float32), second.to(tl.float32)
    turns = head <= QUERIES
    first = tl.where(turns, (a * cos - b * sin).to(first.dtype), first)
    second = tl.where(turns, (b * cos + a * sin).to(second.dtype), second)
    tl.store(query + pair, first, mask=inside & (head < QUERIES))
    tl.store(query + HALF + pair, second, mask=inside & (head < QUERIES))
    tl.store(key + pair, first, mask=inside & (head == QUERIES))
    tl.store(key + HALF + pair, second, mask=inside & (head == QUERIES))
    tl.store(value + pair, first, mask=inside & (head == QUERIES + 1))
    tl.store(value + HALF + pair, second, mask=inside & (head == QUERIES + 1))
    if TURNED < HEAD_SIZE:
        channel = TURNED + tl.arange(0, REST_BLOCK)[None, :]
        inside = (head < QUERIES + 2) & (channel < HEAD_SIZE)
        rest = tl.load(base + channel, mask=inside, other=0.0)
        tl.store(query + channel, rest, mask=inside & (head < QUERIES))
        tl.store(key + channel, rest, mask=inside & (head == QUERIES))
        tl.store(value + channel, rest, mask=inside & (head == QUERIES + 1))


@triton.jit
def backward(
    d_query_ptr,  # [tokens, g, n/g, d]
    d_key_ptr,  # [tokens, g, d]
    d_value_ptr,  # [tokens, g, d]
    cos_ptr,  # [s, r/2], fp32
    sin_ptr,  # [s, r/2], fp32
    d_mixed_ptr,  # [tokens, g, (n/g + 2) d]
    batch,
    groups,
    QUERIES: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    TURNED: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
):
    """One program a group of a token."""
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    head = tl.arange(0, HEADS_BLOCK)[:, None]
    HALF: tl.constexpr = TURNED // 2
    target = d_mixed_ptr + ((token * groups + group) * (QUERIES + 2) + head) * HEAD_SIZE
    query = d_query_ptr + ((token * groups + group) * QUERIES + head) * HEAD_SIZE
    key = d_key_ptr + (token * groups + group) * HEAD_SIZE + head * 0
    value = d_value_ptr + (token * groups + group) * HEAD_SIZE + head * 0

    pair = tl.arange(0, HALF_BLOCK)[None, :]
    inside = (head < QUERIES + 2) & (pair < HALF)
    # Each element comes from one of the three; the loads of the others are off, and give zero.
    first = tl.load(query + pair, mask=inside & (head < QUERIES), other=0.0)
    first += tl.load(key + pair, mask=inside & (head == QUERIES), other=0.0)
    first += tl.load(value + pair, mask=inside & (head == QUERIES + 1), other=0.0)
    second = tl.load(query + HALF + pair, mask=inside & (head < QUERIES), other=0.0)
    second += tl.load(key + HALF + pair, mask=inside & (head == QUERIES), other=0.0)
    second += tl.load(value + HALF + pair, mask=inside & (head == QUERIES + 1), other=0.0)
    angle = (token // batch) * HALF + pair
    cos = tl.load(cos_ptr + angle, mask=pair < HALF, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=pair < HALF, other=0.0)
    a, b = first.to(tl.float32), second.to(tl.float32)
    turns = head <= QUERIES
    first = tl.where(turns, (a * cos + b * sin).to(first.dtype), first)
    second = tl.where(turns, (b * cos - a * sin).to(second.dtype), second)
    tl.store(target + pair, first, mask=inside)
    tl.store(target + HALF + pair, second, mask=inside)
    if TURNED < HEAD_SIZE:
        channel = TURNED + tl.arange(0, REST_BLOCK)[None, :]
        inside = (head < QUERIES + 2) & (channel < HEAD_SIZE)
        rest = tl.load(query + channel, mask=inside & (head < QUERIES), other=0.0)
        rest += tl.load(key + channel, mask=inside & (head == QUERIES), other=0.0)
        rest += tl.load(value + channel, mask=inside & (head == QUERIES + 1), other=0.0)
        tl.store(target + channel, rest, mask=inside)
