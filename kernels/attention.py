"""Causal attention with grouped queries: one function, several backends, the choice made once when the model is built.

Shapes: s sequence, b micro batch, n query heads, g query groups (key/value heads, g divides n), d head size.
Definition: kernels.reference.causal_grouped_attention.

With document_starts a position attends to its own document alone. Every backend then works on packed tokens: the rows of
the micro batch one after the other, [b * s, n, d], which costs a copy of each tensor where b > 1.

Which CUDA kernel runs under "sdpa" is torch's choice. According to torch's documentation and issue threads (not yet run
on a GPU here): flash and cuDNN take grouped queries as they are, in bf16 and fp16; the memory-efficient kernel refuses
them, so grouped queries in fp32, or with a head too large for flash and cuDNN, run the "math" kernel, which holds the
[s, s] scores in memory. torch.nn.attention.sdpa_kernel pins one kernel, for measuring.
"""

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fanal.errors import UserError
from fanal.kernels.reference import causal_grouped_attention, document_ids

try:
    from flash_attn import (  # pyright: ignore[reportMissingImports]  (an optional package)
        flash_attn_func,
        flash_attn_varlen_func,
    )

    _FLASH_IMPORT_ERROR = ""
except ImportError as error:  # absent, or built for another torch: the text says which
    flash_attn_func = flash_attn_varlen_func = None
    _FLASH_IMPORT_ERROR = str(error)

logger = logging.getLogger(__name__)

FUSED_DTYPES = (torch.bfloat16, torch.float16)
MAX_FUSED_HEAD_SIZE = 256
"""Largest head size that flash_attn, and torch's own flash kernel, are built for."""


def _sdpa_attention(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None) -> Tensor:
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


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None) -> Tensor:
    """Call the flash_attn package (Dao, 2023, arXiv:2307.08691); groups queries natively. Not yet run on a GPU."""
    assert flash_attn_func is not None, "flash_attn is missing; select_attention_backend refuses this backend first"
    # [s, b, n, d] -> [b, s, n, d]: a view, since flash_attn only needs the last dimension to be contiguous.
    batch_first = (tensor.transpose(0, 1) for tensor in (query, key, value))
    return flash_attn_func(*batch_first, softmax_scale=softmax_scale, causal=True).transpose(0, 1)


def _reference_attention(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None) -> Tensor:
    return causal_grouped_attention(query, key, value, softmax_scale)  # already [s, b, n * d]


def _sdpa_documents(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, document_starts: Tensor
) -> Tensor:
    """Call torch's scaled_dot_product_attention over documents. Shapes as in _sdpa_attention."""
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
    packed = (_pack(tensor).split(lengths) for tensor in (query, key, value))
    outputs = [
        _sdpa_attention(q[:, None], k[:, None], v[:, None], softmax_scale)[:, 0]  # [tokens, n, d]
        for q, k, v in zip(*packed, strict=True)
    ]
    return _unpack(torch.cat(outputs), query)


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


def _flash_documents(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, document_starts: Tensor
) -> Tensor:
    """Call flash_attn's kernel for sequences of different lengths, packed. Not yet run on a GPU."""
    assert flash_attn_varlen_func is not None, (
        "flash_attn is missing; select_attention_backend refuses this backend first"
    )
    seq_length = query.shape[0]
    output = flash_attn_varlen_func(
        *(_pack(tensor) for tensor in (query, key, value)),
        cu_seqlens_q=document_starts,
        cu_seqlens_k=document_starts,
        # An upper bound is enough, blocks past a document's end return at once; the true maximum would cost a host sync.
        max_seqlen_q=seq_length,
        max_seqlen_k=seq_length,
        softmax_scale=softmax_scale,
        causal=True,
    )
    return _unpack(output, query)


def _reference_documents(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, document_starts: Tensor
) -> Tensor:
    return causal_grouped_attention(query, key, value, softmax_scale, document_starts)  # already [s, b, n * d]


def _pack(tensor: Tensor) -> Tensor:
    """Pack [s, b, n, d] -> [b * s, n, d], row after row; a view for one row, else a copy."""
    return tensor.transpose(0, 1).flatten(0, 1)


def _unpack(packed: Tensor, like: Tensor) -> Tensor:
    """Unpack [b * s, n, d] -> [s, b, n, d], a view; s and b are those of ``like``."""
    return packed.unflatten(0, (like.shape[1], like.shape[0])).transpose(0, 1)


_BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, float | None], Tensor]] = {
    "sdpa": _sdpa_attention,
    "flash": _flash_attention,
    "reference": _reference_attention,
}
_DOCUMENT_BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, float | None, Tensor], Tensor]] = {
    "sdpa": _sdpa_documents,
    "flash": _flash_documents,
    "reference": _reference_documents,
}


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    backend: str,
    softmax_scale: float | None = None,
    document_starts: Tensor | None = None,
) -> Tensor:
    """Compute causal attention in which query head j reads key/value head j // (n / g).

    Args:
        query [s, b, n, d]; key, value [s, b, g, d]; one dtype.
        backend: what select_attention_backend returned.
        softmax_scale: multiplies the scores; 1 / sqrt(d) if None.
        document_starts: int32 [documents + 1] on the query's device, or None for one document per row. Ascending: the first
            token of every document when the rows lie one after the other (every multiple of s is in it), and last b * s.
            Its values are the caller's word: to check them here would cost a host sync.
    Returns: [s, b, n * d], heads in order, in query.dtype.
    Source: Vaswani et al., 2017 (arXiv:1706.03762); Ainslie et al., GQA, 2023 (arXiv:2305.13245).
    """
    assert query.dim() == 4, f"query must be [s, b, n, d], got {tuple(query.shape)}"
    seq_length, batch, num_heads, head_size = query.shape
    assert key.shape == value.shape, f"key {tuple(key.shape)} and value {tuple(value.shape)} must have the same shape"
    assert key.dim() == 4 and (key.shape[0], key.shape[1], key.shape[3]) == (seq_length, batch, head_size), (
        f"key {tuple(key.shape)} must be [s, b, g, d] with s, b, d of the query {tuple(query.shape)}: "
        "every position attends to itself and to all before it, so both have the same length"
    )
    num_groups = key.shape[2]
    assert num_heads % num_groups == 0, (
        f"query heads ({num_heads}) must be a multiple of key/value heads ({num_groups})"
    )
    if document_starts is None:
        output = _BACKENDS[backend](query, key, value, softmax_scale)  # [s, b, n, d] or already flat
    else:
        assert document_starts.dim() == 1 and document_starts.dtype == torch.int32, (
            f"document_starts must be int32 [documents + 1], got {document_starts.dtype} {tuple(document_starts.shape)}"
        )
        output = _DOCUMENT_BACKENDS[backend](query, key, value, softmax_scale, document_starts)
    # A view, not a copy: sdpa and flash write the heads of a token next to each other (packed rows are copied if b > 1).
    return output.reshape(seq_length, batch, num_heads * head_size)


def select_attention_backend(requested: str, device_type: str, dtype: torch.dtype, head_size: int) -> str:
    """Settle the backend once, when the model is built, and log what was chosen and why.

    "auto" takes flash where it can run (CUDA, the package installed, a type and head size it knows), else sdpa; the choice
    is in the log.

    Args: requested, one of "auto", "sdpa", "flash", "reference"; device_type "cuda" or "cpu"; dtype and head_size (d)
        of query, key and value.
    Returns: a backend for causal_attention.
    Raises: UserError if the requested backend cannot run here, with the reason and what can.
    """
    if requested not in ("auto", *_BACKENDS):
        raise UserError(f"unknown attention backend {requested!r}; known: auto, {', '.join(_BACKENDS)}")
    obstacles = _flash_obstacles(device_type, dtype, head_size)
    if requested == "flash" and obstacles:
        raise UserError(
            f"attention backend 'flash' cannot run: {'; '.join(obstacles)}. It needs CUDA, the flash_attn package, "
            f"bfloat16 or float16, and a head size up to {MAX_FUSED_HEAD_SIZE}; 'sdpa' (or 'auto') works here"
        )
    chosen = requested if requested != "auto" else "sdpa" if obstacles else "flash"
    situation = f"{device_type}, {dtype}, head size {head_size}"
    logger.info("attention backend: %s (requested: %s; %s)", chosen, requested, situation)
    if chosen == "reference":
        logger.warning("attention backend 'reference' holds the [s, s] scores of every head in memory: for tests only")
    elif device_type == "cuda" and chosen == "sdpa" and (dtype not in FUSED_DTYPES or head_size > MAX_FUSED_HEAD_SIZE):
        logger.warning(
            "attention on %s: torch has no fused kernel for grouped queries here and may hold the [s, s] scores in "
            "memory; bfloat16 or float16 with a head size up to %d avoids that",
            situation,
            MAX_FUSED_HEAD_SIZE,
        )
    return chosen


def _flash_obstacles(device_type: str, dtype: torch.dtype, head_size: int) -> list[str]:
    """Return every reason why flash_attn cannot run, so that one message names them all; empty if it can."""
    obstacles = []
    if device_type != "cuda":
        obstacles.append(f"the device is {device_type!r}")
    if flash_attn_func is None:
        obstacles.append(f"flash_attn is not importable ({_FLASH_IMPORT_ERROR})")
    if dtype not in FUSED_DTYPES:
        obstacles.append(f"the dtype is {dtype}")
    if head_size > MAX_FUSED_HEAD_SIZE:
        obstacles.append(f"the head size is {head_size}")
    return obstacles
