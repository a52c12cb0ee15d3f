"""What torch's kernels for CUDA allocate and keep, where torch on a CPU would take another way. Nothing is computed."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fanal.kernels.attention_backend import FUSED_DTYPES, MAX_FUSED_HEAD_SIZE

aten = torch.ops.aten


class _FusedRMSNorm(torch.autograd.Function):
    """It keeps input, weight and one fp32 number a row (torch 2.13.0, aten/src/ATen/native/cuda/layer_norm_kernel.cu)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor, eps: float | None = None) -> Tensor:
    """Stand in for ``torch.nn.functional.rms_norm`` with a weight, over the last dimension."""
    assert list(normalized_shape) == [x.shape[-1]] == list(weight.shape), "the last dimension alone, and a weight"
    return _FusedRMSNorm.apply(x, weight)  # type: ignore[no-any-return]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Stand in for torch's function of that name with the kernel that it takes on CUDA.

    Flash without a mask, in bf16 or fp16; else the memory-efficient one, which takes no grouped queries; else the products one
    by one (sdp_utils.cpp of torch 2.13.0; cuDNN's kernel, which H100 may take in place of flash, keeps the same tensors).
    [b, n, s, d] and [b, g, s, d] twice -> [b, n, s, d]
    """
    grouped = query.shape[1] != key.shape[1]
    narrow = query.dtype in FUSED_DTYPES and query.shape[-1] <= MAX_FUSED_HEAD_SIZE
    if attn_mask is None and narrow:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    if not grouped:
        bias = None if attn_mask is None else _bias(attn_mask, query, key)
        keeps = query.requires_grad or key.requires_grad or value.requires_grad
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, keeps, dropout_p, is_causal, scale=scale
        )[0]
    return _products(query, key, value, attn_mask, is_causal, scale)


def efficient_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    dropout_p: float,
    custom_mask_type: int,
    compute_log_sumexp: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    """Stand in for torch's operation of that name, of whole rows, with the one around it, which keeps the same tensors.

    Torch 2.13.0 has the shapes of its backward for other arguments than it is given.
    [b, q, n, d] and [b, s, n, d] twice -> [b, q, n, d]
    """
    assert bias is cu_seqlens_q is cu_seqlens_k is max_seqlen_q is max_seqlen_k is None, "whole rows without a bias"
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output, *rest = aten._scaled_dot_product_efficient_attention(
        *heads_first, None, compute_log_sumexp, dropout_p, custom_mask_type > 0, scale=scale
    )
    return output.transpose(1, 2), *rest


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return what the memory-efficient kernel takes in place of a mask: numbers of the query's type, in rows of a multiple of 16
    bytes, the same for each head."""
    if mask.dtype is torch.bool:
        mask = torch.where(mask, 0.0, -math.inf).to(query.dtype)
    shape = (*query.shape[:2], query.shape[2], key.shape[2])
    missing = -key.shape[2] % 8
    if missing:
        mask = F.pad(mask, (0, missing))[..., : key.shape[2]]
    return mask.expand(shape)


def _products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """Do as torch's "math" kernel, which repeats keys and values and holds the scores."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    root = math.sqrt(query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is not None and mask.dtype is torch.bool:
        mask = torch.where(mask, 0.0, -math.inf).to(query.dtype)
    scores = (query * root) @ (key * root).transpose(-2, -1)
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    return weights @ value


def flash_attn_func(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    """Stand in for the flash_attn package: torch's kernel of the same algorithm keeps the same tensors. A cap costs no memory.

    [b, q, n, d] and [b, s, g, d] twice -> [b, q, n, d]
    """
    longest = query.shape[1], key.shape[1]
    return _flash(query, key, value, (None, None), longest, softmax_scale, causal, window_size)


def flash_attn_varlen_func(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    """As ``flash_attn_func``, of packed documents: [queries, n, d] and [keys, g, d] twice -> [queries, n, d]."""
    starts, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    return _flash(query, key, value, starts, longest, softmax_scale, causal, window_size)


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: tuple[Tensor | None, Tensor | None],
    longest: tuple[int, int],
    scale: float | None,
    causal: bool,
    window: tuple[int, int],
) -> Tensor:
    left, right = (None if size < 0 else size for size in window)
    return aten._flash_attention_forward(
        query, key, value, *starts, *longest, 0.0, causal, False,
        scale=scale, window_size_left=left, window_size_right=right,
    )[0]  # fmt: skip
