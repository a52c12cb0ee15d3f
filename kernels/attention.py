"""Causal attention with grouped queries: one function, several backends, the choice made once when the model is built.

Shapes: s sequence, b micro batch, n query heads, g query groups (key/value heads, g divides n), d head size; q queries, s or fewer.
Definition: kernels.reference.causal_grouped_attention.

Fewer queries than keys are those of the last positions: what a rank computes of a sequence whose keys and values it has
gathered (context parallelism). For flash attention, whose causal mask is aligned to the end of the keys, that is one plain call.

With document_starts a position attends to its own document alone. Every backend then works on packed tokens: the rows of
the micro batch one after the other, [b * s, n, d], which costs a copy of each tensor where b > 1. What each backend can do, and
which is taken: docs/attention.md; the choice: kernels.attention_choice.
"""

import torch
from torch import Tensor

from fanal.kernels.attention_choice import BACKENDS


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    backend: str,
    softmax_scale: float | None = None,
    document_starts: Tensor | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """Compute causal attention in which query head j reads key/value head j // (n / g).

    Args:
        query [q, b, n, d], those of the last q positions; key, value [s, b, g, d]; one dtype.
        backend: the name of what kernels.attention_choice.select_attention_backend chose.
        softmax_scale: multiplies the scores; 1 / sqrt(d) if None.
        document_starts: int32 [documents + 1] on the query's device, or None for one document per row. Ascending: the first
            token of every document when the rows of all s positions lie one after the other (every multiple of s is in it), and
            last b * s. A document may be empty.
            Its values are the caller's word: to check them here would cost a host sync.
        window: how many positions a position sees at most, itself included (transformers' sliding_window); None for all.
        soft_cap: bounds the scaled scores to (-soft_cap, soft_cap) before the mask, cap * tanh(score / cap) (Gemma 2); None
            for no bound.
    Returns: [q, b, n * d], heads in order, in query.dtype.
    Source: Vaswani et al., 2017 (arXiv:1706.03762); Ainslie et al., GQA, 2023 (arXiv:2305.13245); window: Beltagy et al.,
        Longformer, 2020 (arXiv:2004.05150).
    """
    assert query.dim() == 4, f"query must be [q, b, n, d], got {tuple(query.shape)}"
    num_queries, batch, num_heads, head_size = query.shape
    assert key.shape == value.shape, f"key {tuple(key.shape)} and value {tuple(value.shape)} must have the same shape"
    assert key.dim() == 4 and key.shape[0] >= num_queries and (key.shape[1], key.shape[3]) == (batch, head_size), (
        f"key {tuple(key.shape)} must be [s, b, g, d] with b and d of the query {tuple(query.shape)}, and s no less than its q: "
        "every position attends to itself and to all before it"
    )
    seq_length, num_groups = key.shape[0], key.shape[2]
    assert num_heads % num_groups == 0, (
        f"query heads ({num_heads}) must be a multiple of key/value heads ({num_groups})"
    )
    assert window is None or window >= 1, f"window ({window}) must be at least 1: a position sees itself"
    assert soft_cap is None or soft_cap > 0, f"soft_cap ({soft_cap}) must be above 0"
    assert document_starts is None or (document_starts.dim() == 1 and document_starts.dtype == torch.int32), (
        f"document_starts must be int32 [documents + 1], got {document_starts.dtype} {tuple(document_starts.shape)}"
    )
    if window is not None and window >= seq_length:
        window = None  # it hides nothing
    output = BACKENDS[backend].call(query, key, value, softmax_scale, document_starts, window, soft_cap)
    # A view, not a copy: sdpa and flash write the heads of a token next to each other (packed rows are copied if b > 1).
    return output.reshape(num_queries, batch, num_heads * head_size)
