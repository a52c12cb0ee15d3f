"""Causal attention through torch's scaled_dot_product_attention. Shapes and definition: kernels.attention.

Which CUDA kernel runs under "sdpa" is torch's choice. According to torch's documentation and issue threads (not yet run
on a GPU here): flash and cuDNN take grouped queries as they are, in bf16 and fp16; the memory-efficient kernel refuses
them, so grouped queries in fp32, or with a head too large for flash and cuDNN, run the "math" kernel, which holds the
[s, s] scores in memory. torch.nn.attention.sdpa_kernel pins one kernel, for measuring.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fanal.kernels.packing import pack, unpack
from fanal.kernels.reference import document_ids


def sdpa_attention(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None) -> Tensor:
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


def sdpa_documents(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, document_starts: Tensor
) -> Tensor:
    """Call torch's scaled_dot_product_attention over documents. Shapes as in sdpa_attention."""
    # Measured on one CPU core, torch 2.13.0, n=8, g=2, d 64, forward and backward, against causal attention over whole
    # rows: document by document takes 0.33 to 0.67 (fp32) and 0.44 to 0.78 (bf16) of the time for s of 1,024 and more, a
    # mask 1.4 to 1.7. At s = 64 with documents of 8 tokens it takes 2.0 to 2.3, and 1 to 2 ms.
    form = _sdpa_document_by_document if query.device.type == "cpu" else _sdpa_masked
    return form(query, key, value, softmax_scale, document_starts)


def _sdpa_document_by_document(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, document_starts: Tensor
) -> Tensor:
    """Make one call per document. Reads document_starts on the host: on a GPU that would be a sync in every layer."""
    lengths = document_starts.diff().tolist()
    packed = (pack(tensor).split(lengths) for tensor in (query, key, value))
    outputs = [
        sdpa_attention(q[:, None], k[:, None], v[:, None], softmax_scale)[:, 0]  # [tokens, n, d]
        for q, k, v in zip(*packed, strict=True)
    ]
    return unpack(torch.cat(outputs), query)


def _sdpa_masked(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, document_starts: Tensor
) -> Tensor:
    """Make one call with a boolean mask, [b, 1, s, s]: no host sync. Not yet run on a GPU.

    Of torch's fused CUDA kernels only the memory-efficient one takes a mask, and it takes no grouped queries, so keys and
    values are repeated n/g times.
    """
    seq_length, batch, num_heads, _ = query.shape
    ids = document_ids(document_starts, batch, seq_length)
    seen = (ids[:, :, None] == ids[:, None, :]).tril()[:, None]  # [b, 1, s, s]
    repeats = num_heads // key.shape[2]
    output = F.scaled_dot_product_attention(
        query.permute(1, 2, 0, 3),  # [b, n, s, d]
        key.repeat_interleave(repeats, dim=2).permute(1, 2, 0, 3),  # head j reads group j // repeats
        value.repeat_interleave(repeats, dim=2).permute(1, 2, 0, 3),
        attn_mask=seen,
        scale=softmax_scale,
    )
    return output.permute(2, 0, 1, 3)
