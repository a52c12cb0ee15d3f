"""Stand-ins for attention kernels that need a GPU: the arguments of each package as it has them, the result by its documentation.

Arguments are those of flash-attn 2.8.3 (flash_attn/flash_attn_interface.py), flash-attn 3 (hopper/flash_attn_interface.py, 2026),
flash-attn-4 4.0.0b36 (flash_attn/cute/interface.py) and torch 2.11 and 2.13 (torch/nn/attention/varlen.py, and two of its operations).
Where a sequence has fewer queries than keys, all of them align the causal mask and a window to its end: query i of q sees the keys up
to i + s - q. Before 2.1 flash-attn aligned it to the start; ``ALIGNED`` plants that.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fanal.kernels import flash_packages, varlen_attention
from fanal.kernels.flash_packages import FlashFunctions
from fanal.kernels.reference import causal_grouped_attention

ASKED_FOR: list[dict[str, object]] = []
"""What the last calls were given beside tensors; a test clears it."""
ALIGNED = {"to": "end"}
"""Where the causal mask of a sequence is aligned; a test that plants a fault sets it to "start"."""


def attention(query, key, value, scale, window, soft_cap) -> Tensor:
    """[q, b, n, d], [s, b, g, d] twice -> [q, b, n, d]"""
    if ALIGNED["to"] == "start":
        key, value = key[: len(query)], value[: len(query)]
    result = causal_grouped_attention(query, key, value, scale, None, window, soft_cap)
    return result.unflatten(-1, query.shape[2:])


def _packed(query, key, value, starts, starts_k, longest_q, longest_k, scale, window_size, soft_cap, **asked) -> Tensor:
    for packed, of_documents, longest in ((query, starts, longest_q), (key, starts_k, longest_k)):
        assert isinstance(of_documents, Tensor) and of_documents.dtype == torch.int32 and of_documents.is_contiguous()
        assert packed.dim() == 3 and packed.stride(-1) == 1 and len(packed) == of_documents[-1]
        assert longest >= int(of_documents.diff().max()) and int(of_documents.diff().min()) >= 0
    assert key.shape == value.shape and starts.shape == starts_k.shape
    before, after = window_size
    assert after == 0 and (before == -1 or before >= 0)
    ASKED_FOR.append(asked)
    parts = []
    for (first, end), (first_k, end_k) in zip(pairwise(starts.tolist()), pairwise(starts_k.tolist()), strict=True):
        if end == first:  # nothing is written, and its keys have gradients of zero
            continue
        one = query[first:end, None], key[first_k:end_k, None], value[first_k:end_k, None]
        parts.append(attention(*one, scale, None if before == -1 else before + 1, soft_cap or None)[:, 0])
    return torch.cat(parts)


def _rows(query, key, value, *options, **asked) -> Tensor:
    """[b, q, n, d], [b, s, g, d] twice; rows are documents of one length."""
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1 and len(query) == len(key)
    lengths = query.shape[1], key.shape[1]
    starts = [torch.arange(0, len(query) * one + 1, one, dtype=torch.int32) for one in lengths]
    packed = (tensor.flatten(0, 1) for tensor in (query, key, value))
    return _packed(*packed, *starts, *lengths, *options, **asked).view(query.shape)


def _window(causal, window_size, everything) -> tuple[int, int]:
    assert causal is True, "flash must be asked for causal attention"
    return (-1, 0) if window_size == (everything, everything) else window_size


def flash2_dense(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False,
):  # fmt: skip
    return _rows(q, k, v, softmax_scale, _window(causal, window_size, -1), softcap, deterministic=deterministic)


def flash2_packed(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False, block_table=None,
):  # fmt: skip
    lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return _packed(
        q, k, v, *lengths, softmax_scale, _window(causal, window_size, -1), softcap, deterministic=deterministic
    )


def flash3_dense(
    q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None, window_size=(-1, -1),
    attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False,
):  # fmt: skip
    return _rows(q, k, v, softmax_scale, _window(causal, window_size, -1), softcap, deterministic=deterministic)


def flash3_packed(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None, softmax_scale=None, causal=False,
    qv=None, q_descale=None, k_descale=None, v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
    pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False,
):  # fmt: skip
    lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return _packed(
        q, k, v, *lengths, softmax_scale, _window(causal, window_size, -1), softcap, deterministic=deterministic
    )


def flash4_dense(
    q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None,
    softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, score_mod=None, score_mod_bwd=None, mask_mod=None,
    aux_tensors=None, aux_scalars=None, block_sparse_tensors=None, block_sparse_tensors_bwd=None, return_lse=False,
    gather_bwd_recompute_p=False, gather_bwd_token_chunk=None,
):  # fmt: skip
    output = _rows(q, k, v, softmax_scale, _window(causal, window_size, None), softcap, deterministic=deterministic)
    return output, None


def flash4_packed(
    q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, min_seqlen_k=None, seqused_q=None,
    seqused_k=None, gather_kv_indices=None, page_table=None, softmax_scale=None, causal=False, window_size=(None, None),
    learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, score_mod=None, score_mod_bwd=None,
    mask_mod=None, block_sparse_tensors=None, aux_tensors=None, aux_scalars=None, return_lse=False, scheduler_metadata=None,
    seqlen_k_per_split=None, disable_scheduler_metadata=False, gather_bwd_recompute_p=False, gather_bwd_token_chunk=None,
):  # fmt: skip
    lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    window = _window(causal, window_size, None)
    return _packed(q, k, v, *lengths, softmax_scale, window, softcap, deterministic=deterministic), None


def varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1), enable_gqa=False,
    seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    assert enable_gqa or query.shape[1] == key.shape[1], "torch refuses groups that are not asked for"
    return _packed(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size, None, enable_gqa=enable_gqa)


def varlen_attn_of_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
):  # fmt: skip
    assert query.shape[1] == key.shape[1], "torch 2.11 documents no groups"
    return _packed(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size, None)


def _flash_of_torch(
    query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """[b, n, q, d], [b, g, s, d] twice"""
    assert query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] % 8 == 0, "the kernel takes no other"
    assert dropout_p == 0 and is_causal and not return_debug_mask
    rows_first = (tensor.permute(2, 0, 1, 3) for tensor in (query, key, value))
    return (attention(*rows_first, scale, None, None).permute(1, 2, 0, 3),)


def _efficient_of_torch(
    query, key, value, bias, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, custom_mask_type,
    compute_log_sumexp=False, *, scale=None, seqlen_k=None, window_size=None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """[b, q, n, d], [b, s, n, d] twice; custom_mask_type 1: aligned to the start, 2: to the end."""
    assert query.shape[2] == key.shape[2] == value.shape[2], "the kernel takes no grouped queries"
    unused = (bias, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqlen_k, window_size)
    assert not any(argument is not None for argument in unused) and dropout_p == 0
    assert compute_log_sumexp or not torch.is_grad_enabled(), "the backward needs it"
    if custom_mask_type == 1:
        key, value = key[:, : query.shape[1]], value[:, : query.shape[1]]
    else:
        assert custom_mask_type == 2
    rows_first = (tensor.transpose(0, 1) for tensor in (query, key, value))
    return (attention(*rows_first, scale, None, None).transpose(0, 1),)


class TorchOnCuda(TorchFunctionMode):
    """Answers for two operations of torch that a CPU has not."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._scaled_dot_product_flash_attention:
            func = _flash_of_torch
        elif func is torch.ops.aten._efficient_attention_forward:
            func = _efficient_of_torch
        return func(*args, **(kwargs or {}))


PACKAGES = {
    "flash2": ("flash_attn", FlashFunctions(flash2_dense, flash2_packed)),
    "flash3": ("flash_attn_interface", FlashFunctions(flash3_dense, flash3_packed)),
    "flash4": ("flash_attn.cute", FlashFunctions(flash4_dense, flash4_packed)),
}


def put_in_place(monkeypatch: pytest.MonkeyPatch, *names: str, functions: FlashFunctions | None = None) -> None:
    """Let these backends find their stand-ins, or ``functions``."""
    for name in names:
        if name == "varlen":
            monkeypatch.setattr(varlen_attention, "varlen_attn", varlen_attn)
        else:
            package, of_package = PACKAGES[name]
            real = flash_packages.import_functions
            monkeypatch.setattr(
                flash_packages,
                "import_functions",
                lambda asked, own=package, found=functions or of_package, real=real: (
                    found if asked == own else real(asked)
                ),
            )
