"""Causal attention through the flash_attn package (Dao, 2023, arXiv:2307.08691). Not yet run on a GPU.

Shapes and definition: kernels.attention.
"""

import inspect

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


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    document_starts: Tensor | None,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    """Call the flash_attn package; it groups queries, keeps documents apart, and takes windows and caps natively.

    Args: as in kernels.attention.causal_attention. Windows need flash_attn 2.3, caps 2.6.
    Returns: [s, b, n, d].
    """
    assert flash_attn_func is not None and flash_attn_varlen_func is not None, (
        "flash_attn is missing; select_attention_backend refuses this backend first"
    )
    options = {
        "softmax_scale": softmax_scale,
        "causal": True,
        # Positions seen before and after a position, itself not counted; -1: all.
        "window_size": (-1, -1) if window is None else (window - 1, 0),
        "softcap": soft_cap or 0.0,  # 0: none
    }
    if document_starts is None:
        # [s, b, n, d] -> [b, s, n, d]: a view, since flash_attn only needs the last dimension to be contiguous.
        batch_first = (tensor.transpose(0, 1) for tensor in (query, key, value))
        return flash_attn_func(*batch_first, **options).transpose(0, 1)
    seq_length = query.shape[0]
    output = flash_attn_varlen_func(
        *(pack(tensor) for tensor in (query, key, value)),
        cu_seqlens_q=document_starts,
        cu_seqlens_k=document_starts,
        # An upper bound is enough, blocks past a document's end return at once; the true maximum would cost a host sync.
        max_seqlen_q=seq_length,
        max_seqlen_k=seq_length,
        **options,
    )
    return unpack(output, query)


def flash_caps() -> bool:
    """Say whether the installed flash_attn takes a cap on the scores."""
    return flash_attn_func is not None and "softcap" in inspect.signature(flash_attn_func).parameters
