"""Causal attention through torch's scaled_dot_product_attention. Shapes and definition: kernels.attention.

Which kernel runs on a GPU, and that none of them holds [s, s] scores in memory: kernels.sdpa_cuda_attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fanal.kernels.attention_backend import Backend, nothing
from fanal.kernels.attention_blocks import block_attention
from fanal.kernels.packing import pack, unpack
from fanal.kernels.sdpa_cuda_attention import costs_on_cuda, sdpa_on_cuda


def _causal(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None) -> Tensor:
    """Call torch's scaled_dot_product_attention on transposed views. [s, b, n, d], [s, b, g, d] twice -> [s, b, n, d]"""
    # enable_gqa rather than repeating key and value n/g times. Measured on one CPU core, torch 2.13.0, n=8, g=2, d 64
    # and 128, s 512 and 1,024, fp32 and bf16: torch's CPU flash kernel runs either way; with enable_gqa it reads the
    # strided views with no copy in the forward (repeating makes 2) and allocates 0.35 (fp32) to 0.38 (bf16) of the
    # bytes; time forward and backward is 0.96 to 0.98 of repeating.
    output = F.scaled_dot_product_attention(
        query.permute(1, 2, 0, 3),  # [b, n, s, d], a view
        key.permute(1, 2, 0, 3),  # [b, g, s, d], a view
        value.permute(1, 2, 0, 3),
        is_causal=True,
        scale=softmax_scale,
        enable_gqa=query.shape[2] != key.shape[2],  # if equal, every kernel stays eligible
    )
    return output.permute(2, 0, 1, 3)


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    document_starts: Tensor | None,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    """Call torch's scaled_dot_product_attention, in the form that costs least here.

    Args: as in kernels.attention.causal_attention.
    Returns: [s, b, n, d].
    """
    if query.device.type != "cpu":
        return sdpa_on_cuda(query, key, value, softmax_scale, document_starts, window, soft_cap)
    if document_starts is None:
        return _within_rows(query, key, value, softmax_scale, window, soft_cap)
    # Measured on one CPU core, torch 2.13.0, n=8, g=2, d 64, forward and backward, against causal attention over whole
    # rows: document by document takes 0.33 to 0.67 (fp32) and 0.44 to 0.78 (bf16) of the time for s of 1,024 and more, a
    # mask 1.4 to 1.7. At s = 64 with documents of 8 tokens it takes 2.0 to 2.3, and 1 to 2 ms.
    return _document_by_document(query, key, value, softmax_scale, document_starts, window, soft_cap)


def _within_rows(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, window: int | None, soft_cap: float | None
) -> Tensor:
    """Attend within whole rows. [s, b, n, d], [s, b, g, d] twice -> [s, b, n, d]"""
    window = None if window is None or window >= len(query) else window
    if window is None and soft_cap is None:
        return _causal(query, key, value, softmax_scale)
    return block_attention(query, key, value, softmax_scale, window, soft_cap)


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
    lengths = document_starts.diff().tolist()
    packed = (pack(tensor).split(lengths) for tensor in (query, key, value))
    outputs = [
        _within_rows(q[:, None], k[:, None], v[:, None], softmax_scale, window, soft_cap)[:, 0]  # [tokens, n, d]
        for q, k, v in zip(*packed, strict=True)
    ]
    return unpack(torch.cat(outputs), query)


SDPA = Backend(
    name="sdpa",
    obstacles=nothing,
    call=sdpa_attention,
    costs=lambda situation: costs_on_cuda(situation) if situation.device_type == "cuda" else [],
)
