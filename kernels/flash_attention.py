"""Causal attention through the flash_attn package (Dao, 2023, arXiv:2307.08691). Not yet run on a GPU.

Shapes and definition: kernels.attention.
"""

from torch import Tensor

from fanal.kernels.packing import pack, unpack

try:
    from flash_attn import (  # pyright: ignore[reportMissingImports]  (an optional package)
        flash_attn_func,
        flash_attn_varlen_func,
    )

    IMPORT_ERROR = ""
except ImportError as error:  # absent, or built for another torch: the text says which
    flash_attn_func = flash_attn_varlen_func = None
    IMPORT_ERROR = str(error)


def flash_attention(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None) -> Tensor:
    """Call the flash_attn package (Dao, 2023, arXiv:2307.08691); groups queries natively. Not yet run on a GPU."""
    assert flash_attn_func is not None, "flash_attn is missing; select_attention_backend refuses this backend first"
    # [s, b, n, d] -> [b, s, n, d]: a view, since flash_attn only needs the last dimension to be contiguous.
    batch_first = (tensor.transpose(0, 1) for tensor in (query, key, value))
    return flash_attn_func(*batch_first, softmax_scale=softmax_scale, causal=True).transpose(0, 1)


def flash_documents(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, document_starts: Tensor
) -> Tensor:
    """Call flash_attn's kernel for sequences of different lengths, packed. Not yet run on a GPU."""
    assert flash_attn_varlen_func is not None, (
        "flash_attn is missing; select_attention_backend refuses this backend first"
    )
    seq_length = query.shape[0]
    output = flash_attn_varlen_func(
        *(pack(tensor) for tensor in (query, key, value)),
        cu_seqlens_q=document_starts,
        cu_seqlens_k=document_starts,
        # An upper bound is enough, blocks past a document's end return at once; the true maximum would cost a host sync.
        max_seqlen_q=seq_length,
        max_seqlen_k=seq_length,
        softmax_scale=softmax_scale,
        causal=True,
    )
    return unpack(output, query)
