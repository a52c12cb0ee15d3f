"""The largest attention logit, a block of queries at a time: what a fused kernel never writes out.

Shapes: s sequence, b micro batch, n query heads, g query groups, r = n / g, d head size; q queries, of the last q positions.
"""

import torch
from torch import Tensor

from fanal.kernels.reference import document_ids

MOST_LOGITS = 2**25
"""Logits that lie in memory at a time, unless one row of queries has more: 64 MiB in bf16, 128 MiB in fp32."""


def largest_logit(
    query: Tensor,
    key: Tensor,
    softmax_scale: float,
    document_starts: Tensor | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    *,
    most_logits: int = MOST_LOGITS,
) -> Tensor:
    """Return the largest of all numbers that the softmax of causal attention is given: of every row, head, query and key it sees.

    Exact but for the product's rounding to the type of the queries, which in bf16 is 2^-9 of the logit. Costs the product of
    queries and keys once more, of which the part behind the last query of a block is left out. No host wait.
    Args: as of kernels.attention.causal_attention; most_logits, held at a time.
    Returns: [], fp32.
    """
    assert softmax_scale > 0, f"softmax_scale ({softmax_scale}) must be above 0: the largest product is sought"
    num_queries, batch, num_heads, _ = query.shape
    seq_length, groups = key.shape[0], key.shape[2]
    queries = query.permute(1, 2, 0, 3).unflatten(1, (groups, num_heads // groups))  # [b, g, r, q, d]
    keys = key.permute(1, 2, 3, 0)  # [b, g, d, s]
    ids = None if document_starts is None else document_ids(document_starts, batch, seq_length)  # [b, s]
    positions = torch.arange(seq_length, dtype=torch.int32, device=query.device)
    block = max(1, most_logits // (batch * num_heads * seq_length))
    largest = torch.full((), float("-inf"), dtype=torch.float32, device=query.device)
    behind = seq_length - num_queries
    for first in range(behind, seq_length, block):  # positions
        last = min(first + block, seq_length)
        begin = 0 if window is None else max(0, first - window + 1)
        # The heads of a group one after the other: the keys are read as they lie, once for all of them.
        products = (
            queries[..., first - behind : last - behind, :].flatten(2, 3) @ keys[..., begin:last]
        )  # [b, g, r * block, keys]
        back = positions[first:last, None] - positions[None, begin:last]
        hidden = back < 0 if window is None else (back < 0) | (back >= window)
        if ids is not None:
            hidden = hidden | (ids[:, first:last, None] != ids[:, None, begin:last])  # [b, block, keys]
            hidden = hidden[:, None, None]
        by_head = products.unflatten(2, (-1, last - first)).masked_fill_(hidden, float("-inf"))
        largest = torch.maximum(largest, by_head.amax().float())
    scaled = largest * softmax_scale
    return scaled if soft_cap is None else soft_cap * torch.tanh(scaled / soft_cap)
