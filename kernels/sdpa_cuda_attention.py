"""torch's scaled_dot_product_attention on a GPU, with its kernels pinned. Shapes and definition: kernels.attention.

Left to itself torch runs its "math" kernel where no fused one takes the call, and says nothing: it holds the [q, s] scores of every
head in memory. Here a call names the kernels that may run, math is none of them, and torch raises where none of them can.
By torch's documentation and source (not yet run on a GPU here): flash and cuDNN take grouped queries as they are, in bf16 and fp16,
and no mask; the memory-efficient kernel takes any type and a mask, and no grouped queries, so keys and values are repeated for it.

Where queries are fewer than keys, is_causal of scaled_dot_product_attention is aligned to the start, which is wrong here. The flash
and the memory-efficient kernel themselves can be aligned to the end, so they are called by their own names, as torch's
causal_lower_right does (torch/nn/attention/bias.py, 2.13.0). That one is not used: to make it takes 8 q s bytes of host memory.
"""

import contextlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fanal.kernels.attention_backend import FUSED_DTYPES, MAX_FUSED_HEAD_SIZE, Situation
from fanal.kernels.attention_blocks import block_attention
from fanal.kernels.reference import document_ids

aten = torch.ops.aten
_TO_THE_END = 2
"""custom_mask_type of the memory-efficient kernel: a causal mask aligned to the last query and the last key (CausalVariant)."""


def sdpa_on_cuda(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    document_starts: Tensor | None,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    """Attend without a host sync. Arguments and result as of kernels.sdpa_attention.sdpa_attention."""
    seq_length, batch = key.shape[:2]
    documents = None if document_starts is None else document_ids(document_starts, batch, seq_length)
    if soft_cap is not None or (window is not None and window < seq_length):
        return block_attention(query, key, value, softmax_scale, window, soft_cap, documents)
    if documents is not None:
        return _masked(query, key, value, softmax_scale, documents)
    if len(query) < seq_length:
        return _causal_to_the_end(query, key, value, softmax_scale)
    return _causal(query, key, value, softmax_scale)


def kernels_for(dtype: torch.dtype, head_size: int, *, is_grouped: bool, is_deterministic: bool) -> list[SDPBackend]:
    """Return the kernels that may run without a mask, never math. The memory-efficient one takes no grouped queries."""
    efficient = SDPBackend.EFFICIENT_ATTENTION
    if not _flash_takes(dtype, head_size):
        return [efficient]
    # cuDNN's backward may add up in another order each time; flash's adds up in order under use_deterministic_algorithms.
    fused = [SDPBackend.FLASH_ATTENTION] + ([] if is_deterministic else [SDPBackend.CUDNN_ATTENTION])
    return fused if is_grouped else [*fused, efficient]


def costs_on_cuda(situation: Situation) -> list[str]:
    """Return what torch's attention costs more here than a fused kernel would."""
    if situation.soft_cap is not None:
        return [
            "torch has no fused kernel with a cap on the scores, so products run in fp32, block by block, and again in the "
            "backward; the flash-attn packages have one"
        ]
    found = []
    if situation.window is not None:
        found.append(
            "layers with a window run block by block in fp32; attention backend 'varlen' has windows in its kernel"
        )
    if situation.documents:
        found.append(
            "documents are kept apart by a mask, [b, 1, s, s] in memory in each layer, and every tile of it is computed; attention "
            "backend 'varlen' and the flash-attn packages compute documents alone"
        )
    if not _flash_takes(situation.dtype, situation.head_size) and situation.num_heads != situation.num_groups:
        found.append(
            "no fused kernel takes grouped queries here, so keys and values are repeated for each query head; bfloat16 or float16 "
            f"with a head size up to {MAX_FUSED_HEAD_SIZE} avoids that"
        )
    return found


def pinned(kernels: Sequence[SDPBackend], device: torch.device) -> contextlib.AbstractContextManager:
    """Let only these kernels run on a GPU in the block: torch raises "No available kernel" where none can, and warns of why.

    Sets flags of the process, 9 microseconds of one CPU core a call (torch 2.13.0); the backward runs the kernel of its forward.
    """
    return sdpa_kernel(list(kernels)) if device.type == "cuda" else contextlib.nullcontext()


def _flash_takes(dtype: torch.dtype, head_size: int) -> bool:
    return dtype in FUSED_DTYPES and head_size <= MAX_FUSED_HEAD_SIZE


def _causal(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None) -> Tensor:
    """Make one call without a mask. [s, b, n, d], [s, b, g, d] twice -> [s, b, n, d]"""
    is_grouped = query.shape[2] != key.shape[2]
    kernels = kernels_for(
        query.dtype,
        query.shape[3],
        is_grouped=is_grouped,
        is_deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    if is_grouped and SDPBackend.FLASH_ATTENTION not in kernels:
        key, value, is_grouped = _repeated(key, query), _repeated(value, query), False
    with pinned(kernels, query.device):
        output = F.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),  # [b, n, s, d], a view
            key.permute(1, 2, 0, 3),  # [b, g, s, d], a view
            value.permute(1, 2, 0, 3),
            is_causal=True,
            scale=softmax_scale,
            enable_gqa=is_grouped,
        )
    return output.permute(2, 0, 1, 3)


def _causal_to_the_end(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None) -> Tensor:
    """Make one call of a kernel whose causal mask ends where the keys do. [q, b, n, d], [s, b, g, d] twice -> [q, b, n, d]"""
    head_size = query.shape[3]
    scale = head_size**-0.5 if softmax_scale is None else softmax_scale
    if _flash_takes(query.dtype, head_size):
        # The kernel wants heads in steps of 8; scaled_dot_product_attention pads them too.
        padded = (F.pad(tensor, (0, -head_size % 8)) if head_size % 8 else tensor for tensor in (query, key, value))
        heads_first = (tensor.permute(1, 2, 0, 3) for tensor in padded)
        output = aten._scaled_dot_product_flash_attention(*heads_first, 0.0, True, False, scale=scale)[0]
        return output[..., :head_size].permute(2, 0, 1, 3)
    if query.shape[2] != key.shape[2]:
        key, value = _repeated(key, query), _repeated(value, query)
    batch_first = (tensor.transpose(0, 1) for tensor in (query, key, value))  # [b, q, n, d]
    output = aten._efficient_attention_forward(
        *batch_first,
        *(None, None, None, None, None),  # no bias; every row is one sequence
        0.0,
        _TO_THE_END,
        torch.is_grad_enabled(),  # whether it keeps what the backward needs
        scale=scale,
    )[0]
    return output.transpose(0, 1)


def _masked(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float | None, documents: Tensor) -> Tensor:
    """Make one call with a boolean mask, [b, 1, q, s], which only the memory-efficient kernel takes. documents [b, s]."""
    behind = len(key) - len(query)
    seen = (documents[:, behind:, None] == documents[:, None, :]).tril(diagonal=behind)[:, None]  # [b, 1, q, s]
    with pinned([SDPBackend.EFFICIENT_ATTENTION], query.device):
        output = F.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),  # [b, n, q, d]
            _repeated(key, query).permute(1, 2, 0, 3),
            _repeated(value, query).permute(1, 2, 0, 3),
            attn_mask=seen,
            scale=softmax_scale,
        )
    return output.permute(2, 0, 1, 3)


def _repeated(tensor: Tensor, query: Tensor) -> Tensor:
    """Repeat keys or values for each query head of their group: head j reads group j // (n / g). [s, b, g, d] -> [s, b, n, d]"""
    return tensor.repeat_interleave(query.shape[2] // tensor.shape[2], dim=2)
