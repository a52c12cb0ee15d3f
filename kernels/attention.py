"""Causal attention with grouped queries: one function, several backends, the choice made once when the model is built.

Shapes: s sequence, b micro batch, n query heads, g query groups (key/value heads, g divides n), d head size.
Definition: kernels.reference.causal_grouped_attention.

With document_starts a position attends to its own document alone. Every backend then works on packed tokens: the rows of
the micro batch one after the other, [b * s, n, d], which costs a copy of each tensor where b > 1. Under "sdpa", windows and
caps on the scores go block by block (kernels.attention_blocks, with what they cost); "flash" has them in its kernel.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from fanal.errors import UserError
from fanal.kernels import flash_attention
from fanal.kernels.reference import causal_grouped_attention
from fanal.kernels.sdpa_attention import sdpa_attention

logger = logging.getLogger(__name__)

FUSED_DTYPES = (torch.bfloat16, torch.float16)
MAX_FUSED_HEAD_SIZE = 256
"""Largest head size that flash_attn, and torch's own flash kernel, are built for."""

_BACKENDS: dict[str, Callable[..., Tensor]] = {
    "sdpa": sdpa_attention,
    "flash": flash_attention.flash_attention,
    "reference": causal_grouped_attention,  # gives [s, b, n * d], the others [s, b, n, d]
}


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
        query [s, b, n, d]; key, value [s, b, g, d]; one dtype.
        backend: what select_attention_backend returned.
        softmax_scale: multiplies the scores; 1 / sqrt(d) if None.
        document_starts: int32 [documents + 1] on the query's device, or None for one document per row. Ascending: the first
            token of every document when the rows lie one after the other (every multiple of s is in it), and last b * s.
            Its values are the caller's word: to check them here would cost a host sync.
        window: how many positions a position sees at most, itself included (transformers' sliding_window); None for all.
        soft_cap: bounds the scaled scores to (-soft_cap, soft_cap) before the mask, cap * tanh(score / cap) (Gemma 2); None
            for no bound.
    Returns: [s, b, n * d], heads in order, in query.dtype.
    Source: Vaswani et al., 2017 (arXiv:1706.03762); Ainslie et al., GQA, 2023 (arXiv:2305.13245); window: Beltagy et al.,
        Longformer, 2020 (arXiv:2004.05150).
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
    assert window is None or window >= 1, f"window ({window}) must be at least 1: a position sees itself"
    assert soft_cap is None or soft_cap > 0, f"soft_cap ({soft_cap}) must be above 0"
    assert document_starts is None or (document_starts.dim() == 1 and document_starts.dtype == torch.int32), (
        f"document_starts must be int32 [documents + 1], got {document_starts.dtype} {tuple(document_starts.shape)}"
    )
    if window is not None and window >= seq_length:
        window = None  # it hides nothing
    output = _BACKENDS[backend](query, key, value, softmax_scale, document_starts, window, soft_cap)
    # A view, not a copy: sdpa and flash write the heads of a token next to each other (packed rows are copied if b > 1).
    return output.reshape(seq_length, batch, num_heads * head_size)


def select_attention_backend(
    requested: str, device_type: str, dtype: torch.dtype, head_size: int, soft_cap: float | None = None
) -> str:
    """Settle the backend once, when the model is built, and log what was chosen and why.

    "auto" takes flash where it can run (CUDA, the package installed, a type and head size it knows), else sdpa; the choice
    is in the log.

    Args: requested, one of "auto", "sdpa", "flash", "reference"; device_type "cuda" or "cpu"; dtype and head_size (d)
        of query, key and value; soft_cap, what causal_attention will be given, None for no cap on the scores.
    Returns: a backend for causal_attention.
    Raises: UserError if the requested backend cannot run here, with the reason and what can.
    """
    if requested not in ("auto", *_BACKENDS):
        raise UserError(f"unknown attention backend {requested!r}; known: auto, {', '.join(_BACKENDS)}")
    obstacles = _flash_obstacles(device_type, dtype, head_size, soft_cap)
    if requested == "flash" and obstacles:
        raise UserError(
            f"attention backend 'flash' cannot run: {'; '.join(obstacles)}. It needs CUDA, the flash_attn package, "
            f"bfloat16 or float16, and a head size up to {MAX_FUSED_HEAD_SIZE}; 'sdpa' (or 'auto') works here"
        )
    chosen = requested if requested != "auto" else "sdpa" if obstacles else "flash"
    situation = f"{device_type}, {dtype}, head size {head_size}"
    situation += "" if soft_cap is None else f", soft cap {soft_cap}"
    logger.info("attention backend: %s (requested: %s; %s)", chosen, requested, situation)
    if chosen == "reference":
        logger.warning("attention backend 'reference' holds the [s, s] scores of every head in memory: for tests only")
    elif device_type == "cuda" and chosen == "sdpa" and soft_cap is not None:
        logger.warning(
            "attention on %s: torch has no fused kernel with a cap on the scores, so products run in fp32, block by block, "
            "and again in the backward; the flash_attn package (2.6 or later) has one",
            situation,
        )
    elif device_type == "cuda" and chosen == "sdpa" and (dtype not in FUSED_DTYPES or head_size > MAX_FUSED_HEAD_SIZE):
        logger.warning(
            "attention on %s: torch has no fused kernel for grouped queries here and may hold the [s, s] scores in "
            "memory; bfloat16 or float16 with a head size up to %d avoids that",
            situation,
            MAX_FUSED_HEAD_SIZE,
        )
    return chosen


def _flash_obstacles(device_type: str, dtype: torch.dtype, head_size: int, soft_cap: float | None) -> list[str]:
    """Return every reason why flash_attn cannot run, so that one message names them all; empty if it can."""
    obstacles = []
    if device_type != "cuda":
        obstacles.append(f"the device is {device_type!r}")
    if flash_attention.flash_attn_func is None:
        obstacles.append(f"flash_attn is not importable ({flash_attention.IMPORT_ERROR})")
    if dtype not in FUSED_DTYPES:
        obstacles.append(f"the dtype is {dtype}")
    if head_size > MAX_FUSED_HEAD_SIZE:
        obstacles.append(f"the head size is {head_size}")
    if soft_cap is not None and flash_attention.flash_attn_func is not None and not flash_attention.flash_caps():
        obstacles.append(f"the installed flash_attn takes no cap on the scores ({soft_cap}), 2.6 and later do")
    return obstacles
