"""Causal attention that needs no package: torch's scaled_dot_product_attention on a GPU, blocks of our own on a CPU.

Shapes and definition: kernels.attention. Which kernel runs on a GPU, and that none of them holds [q, s] scores in memory:
kernels.sdpa_cuda_attention.
"""

import torch
from torch import Tensor

from fanal.kernels.attention_backend import Backend, nothing
from fanal.kernels.causal_blocks import causal_blocks
from fanal.kernels.packing import pack, query_starts, unpack
from fanal.kernels.sdpa_cuda_attention import costs_on_cuda, sdpa_on_cuda


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    document_starts: Tensor | None,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    """Compute attention in the form that costs least here.

    Args: as in kernels.attention.causal_attention.
    Returns: [q, b, n, d].
    """
    if query.device.type != "cpu":
        return sdpa_on_cuda(query, key, value, softmax_scale, document_starts, window, soft_cap)
    if document_starts is None:
        return causal_blocks(query, key, value, softmax_scale, window, soft_cap)
    return _document_by_document(query, key, value, softmax_scale, document_starts, window, soft_cap)


def _document_by_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    document_starts: Tensor,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    """Make one call per document. Reads document_starts on the host: on a GPU that would be a sync in every layer."""
    of_queries = query_starts(document_starts, num_keys=len(key), num_queries=len(query))
    parts = (
        pack(tensor).split(starts.diff().tolist())
        for tensor, starts in ((query, of_queries), (key, document_starts), (value, document_starts))
    )
    outputs = [
        causal_blocks(q[:, None], k[:, None], v[:, None], softmax_scale, window, soft_cap)[:, 0]  # [tokens, n, d]
        for q, k, v in zip(*parts, strict=True)
        if len(q)
    ]
    return unpack(torch.cat(outputs), query)


SDPA = Backend(
    name="sdpa",
    obstacles=nothing,
    call=sdpa_attention,
    costs=lambda situation: costs_on_cuda(situation) if situation.device_type == "cuda" else [],
)
